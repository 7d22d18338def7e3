"""A library that answers as NVML does, from a file of numbers, so that the real binding is used without a GPU."""

from __future__ import annotations

import pathlib
import shutil
import subprocess

import pytest

# One line per GPU: status of its calls, status of field 186, its mW, mean mW, mJ, limit mW, MHz, reasons. Before: status of
# nvmlInit. Layout of nvmlFieldValue_t: nvml.h.
_SOURCE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
typedef struct { int all, field; unsigned instant, mean; unsigned long long energy; unsigned limit, mhz; unsigned long long why; } gpu_t;
typedef union { double d; unsigned ui; unsigned long ul; unsigned long long ull; long long sll; } value_t;
typedef struct { unsigned field, scope; long long at, latency; unsigned type, ret; value_t value; } field_t;
static gpu_t gpus[8]; static int count, init;
static void load(void) {
  FILE *f = fopen(getenv("FAKE_NVML"), "r"); count = 0; init = 999;
  if (!f) return;
  if (fscanf(f, "%d", &init) != 1) init = 999;
  while (count < 8) {
    gpu_t *g = &gpus[count];
    if (fscanf(f, "%d %d %u %u %llu %u %u %llu", &g->all, &g->field, &g->instant, &g->mean, &g->energy, &g->limit, &g->mhz, &g->why) != 8) break;
    count++;
  }
  fclose(f);
}
int nvmlInitWithFlags(unsigned flags) { load(); return init; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int r) { return r == 15 ? "GPU is lost" : r == 9 ? "Driver Not Loaded" : "Some error"; }
int nvmlDeviceGetCount_v2(unsigned *n) { load(); *n = count; return init; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **h) { *h = (void *)(long)(i + 1); return gpus[i].all; }
#define G (&gpus[(long)h - 1])
int nvmlDeviceGetUUID(void *h, char *out, unsigned n) { snprintf(out, n, "GPU-%ld", (long)h - 1); return G->all; }
int nvmlDeviceGetName(void *h, char *out, unsigned n) { snprintf(out, n, "NVIDIA H100 80GB HBM3"); return G->all; }
int nvmlDeviceGetFieldValues(void *h, int n, field_t *v) {
  if (n != 1 || v->field != 186 || v->scope != 0) return 2;
  v->ret = G->field; v->value.ui = G->instant; return G->all;
}
int nvmlDeviceGetPowerUsage(void *h, unsigned *mw) { *mw = G->mean; return G->mean ? G->all : 3; }
int nvmlDeviceGetTotalEnergyConsumption(void *h, unsigned long long *mj) { *mj = G->energy; return G->energy ? G->all : 3; }
int nvmlDeviceGetEnforcedPowerLimit(void *h, unsigned *mw) { *mw = G->limit; return G->limit ? G->all : 3; }
int nvmlDeviceGetClockInfo(void *h, int which, unsigned *mhz) { *mhz = G->mhz; return which == 1 ? G->all : 2; }
#ifndef OLD_DRIVER
int nvmlDeviceGetCurrentClocksEventReasons(void *h, unsigned long long *why) { *why = G->why; return G->all; }
#endif
"""


def build(folder: pathlib.Path, *, old_driver: bool = False) -> dict[str, str]:
    """The environment in which the binding finds it; its numbers are in `folder`/gpus. Skips where nothing compiles."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler here")
    source = folder / "nvml.c"
    source.write_text(_SOURCE)
    more = ["-DOLD_DRIVER"] if old_driver else []
    command = [compiler, "-shared", "-fPIC", "-o", str(folder / "libnvidia-ml.so.1"), str(source), *more]
    subprocess.run(command, check=True)
    return {"LD_LIBRARY_PATH": str(folder), "FAKE_NVML": str(folder / "gpus")}


def gpu(
    *, status: int = 0, field: int = 0, instant_mw: int = 0, mean_mw: int = 0, energy_mj: int = 0, limit_mw: int = 0,
    mhz: int = 0, reasons: int = 0,
) -> str:  # fmt: skip
    """A line of the file. Numbers that are 0 are not supported by this GPU, but for clock and reasons."""
    return f"{status} {field} {instant_mw} {mean_mw} {energy_mj} {limit_mw} {mhz} {reasons}"
