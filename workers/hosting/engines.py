"""Engines by name."""

from __future__ import annotations

from penstock.runtime import clock as clocks
from penstock.runtime import errors
from workers.hosting import engine, spec

KINDS = ("sim", "vllm")


def make(worker: spec.WorkerSpec) -> engine.Engine:
    """The engine of a worker. Raises `SettingsError` for a kind that is none, or for wrong settings of it."""
    if worker.command:
        from workers.hosting import child_engine

        return child_engine.ChildEngine(worker, clocks.SystemClock())
    if worker.engine_url is not None:
        from workers.hosting import beside_engine

        return beside_engine.BesideEngine(worker, clocks.SystemClock())
    if worker.engine.kind == "sim":
        from workers.hosting import sim_engine

        return sim_engine.SimEngine(worker)
    if worker.engine.kind == "vllm":
        from workers.hosting import vllm_engine

        return vllm_engine.VllmEngine(worker)
    raise errors.SettingsError(f"engine: {worker.engine.kind!r} is not allowed: one of {', '.join(KINDS)}")
