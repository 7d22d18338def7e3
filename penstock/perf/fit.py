"""Fits the step model to measurements and writes the profiles: `python -m penstock.perf.fit`.

Each source gives points (what was measured, how the step model predicts it); every fifth point is kept out of the fit
and its error is reported beside that of the fitted ones. The relative errors are minimised by Levenberg-Marquardt
on the logarithms of the coefficients, so that all stay positive.
"""

import csv
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources import abc

import numpy as np
import numpy.typing as npt

from penstock.perf import profiles, step_model

_HOLD_BACK_EVERY = 5
_NAMES = ("c", "w0", "b", "s", "kappa", "q")
_FLOOR = 1e-12
# Searches with weights of the residuals before; they settle within a few. Below such an error none is an outlier.
_REWEIGHTED = 8
_LEAST_SCALE = 0.01
_H200_MAX_SEQS = 1024
# Layers, KV heads and size of a head, from the models' own configuration files; KV in 16 bits.
_KV_SHAPES = {
    "meta-llama/Llama-3.1-8B-Instruct": (32, 8, 128),
    "meta-llama/Llama-2-70b": (80, 8, 128),
    "Qwen/Qwen3-32B": (64, 8, 128),
}
_KV_ELEMENT_BYTES = 2

Frontend = Callable[[int], float]
"""Prompt tokens -> time outside the steps, ms."""


@dataclass(frozen=True, slots=True)
class Point:
    """One measured time, and what the model says for it."""

    measured_ms: float
    predict: Callable[[step_model.StepModel, Frontend], float]
    """(step model, prompt tokens -> frontend ms) -> ms."""
    kind: str = "step"
    """What was measured: `prefill` (time to the first token), `step` (of decoding alone), or `steady` (both at once)."""


@dataclass(frozen=True, slots=True)
class Job:
    """One profile to fit."""

    profile: dict[str, object]
    """The profile's fields that are not fitted."""
    points: Sequence[Point]
    start: dict[str, float]
    """Where the search begins: the coefficients, `frontend_ms`, and `frontend_ms_per_token` where it is not zero."""
    fixed: frozenset[str] = frozenset()
    """Those of `start` that the data cannot tell, and that stay as they are."""
    robust: bool = False
    """Whether points far off the others' course count less (Huber's weights), as single measurements of a live server want."""


def fit(job: Job) -> profiles.EngineProfile:
    """Fit one profile."""
    held = held_back(job)
    used = [point for index, point in enumerate(job.points) if index % _HOLD_BACK_EVERY != 2]
    free = [name for name in job.start if name not in job.fixed]
    found = _search(lambda values: _residuals(job, free, values, used), np.log([job.start[name] for name in free]))
    for _ in range(_REWEIGHTED if job.robust else 0):
        found = _weighted(job, free, used, np.sqrt(_weights(_residuals(job, free, found, used))), found)
    model, frontend_ms, per_token_ms = _model(job, free, found)
    frontend = _frontend(frontend_ms, per_token_ms)
    report = profiles.FitReport(
        points=len(used),
        held_back=len(held),
        error=round(_error(used, model, frontend), 4),
        held_back_error=round(_error(held, model, frontend), 4),
    )
    fields = job.profile | {"step": model, "frontend_ms": frontend_ms, "fit": report}
    if per_token_ms:
        fields["frontend_ms_per_token"] = per_token_ms
    return profiles.EngineProfile.model_validate(fields)


def _weighted(
    job: Job,
    free: Sequence[str],
    used: Sequence[Point],
    roots: npt.NDArray[np.float64],
    start: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """A search in which a point's residual counts by the square of its root."""
    return _search(lambda values: roots * _residuals(job, free, values, used), start)


def _weights(residuals: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Huber's: 1 up to 1.345 standard deviations, as the median of the residuals tells these, and less beyond."""
    scale = max(1.4826 * float(np.median(np.abs(residuals))), _LEAST_SCALE)
    return np.minimum(1.0, 1.345 * scale / np.maximum(np.abs(residuals), 1e-12))


def held_back(job: Job) -> list[Point]:
    """The points that are kept out of the fit."""
    return [point for index, point in enumerate(job.points) if index % _HOLD_BACK_EVERY == 2]


def _search(
    residuals: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]], start: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Levenberg-Marquardt with a numeric Jacobian."""
    at, damping = start.astype(np.float64), 1e-2
    current = residuals(at)
    for _ in range(300):
        columns = [(residuals(at + step) - current) / 1e-5 for step in 1e-5 * np.eye(len(at))]
        jacobian = np.stack(columns, axis=1)
        normal = jacobian.T @ jacobian
        step = np.linalg.solve(normal + damping * np.eye(len(at)), -jacobian.T @ current)
        trial = at + np.clip(step, -1.0, 1.0)
        new = residuals(trial)
        if new @ new < current @ current:
            small = float(np.abs(trial - at).max()) < 1e-7
            at, current, damping = trial, new, max(damping / 3, 1e-9)
            if small:
                break
        else:
            damping *= 4
            if damping > 1e9:
                break
    return at


def _frontend(fixed_ms: float, per_token_ms: float) -> Frontend:
    return lambda tokens: fixed_ms + per_token_ms * tokens


def _model(job: Job, free: Sequence[str], logs: npt.NDArray[np.float64]) -> tuple[step_model.StepModel, float, float]:
    values = job.start | dict(zip(free, np.exp(logs).tolist(), strict=True))
    rounded = {name: 0.0 if value < _FLOOR else float(f"{value:.5g}") for name, value in values.items()}
    model = step_model.StepModel(**{name: rounded[name] for name in _NAMES})
    return model, rounded["frontend_ms"], rounded.get("frontend_ms_per_token", 0.0)


def _residuals(
    job: Job, free: Sequence[str], logs: npt.NDArray[np.float64], points: Sequence[Point]
) -> npt.NDArray[np.float64]:
    values = job.start | dict(zip(free, np.exp(logs).tolist(), strict=True))
    model = step_model.StepModel.model_construct(**{name: values[name] for name in _NAMES})
    frontend = _frontend(values["frontend_ms"], values.get("frontend_ms_per_token", 0.0))
    said = [point.predict(model, frontend) / point.measured_ms - 1.0 for point in points]
    return np.array(said)


def _error(points: Sequence[Point], model: step_model.StepModel, frontend: Frontend) -> float:
    return float(np.mean([abs(point.predict(model, frontend) / point.measured_ms - 1.0) for point in points]))


# --- the sources ---


def prefill_point(tokens: int, cached_tokens: int, chunk_tokens: int, measured_ms: float) -> Point:
    """Time to the first token of a request alone, `tokens` of whose prompt are computed behind `cached_tokens`."""

    def predict(model: step_model.StepModel, frontend: Frontend) -> float:
        return frontend(tokens + cached_tokens) + model.prefill_ms(tokens, cached_tokens, chunk_tokens)

    return Point(measured_ms, predict, "prefill")


def decode_point(seqs: int, kv_tokens: int, measured_ms: float) -> Point:
    """Mean time of steps in which `seqs` sequences decode that hold `kv_tokens` together."""
    return Point(measured_ms, lambda model, _: model.decode_step_ms(seqs, kv_tokens))


def _steady_point(seqs: int, prompt: int, output: int, chunk_tokens: int, measured_ms: float) -> Point:
    """Mean time per output token with `seqs` requests in flight all the time.

    While one request decodes its output, each of the others is replaced once: its own decode steps, and the time
    that the prefill of the others adds to them.
    """

    def predict(model: step_model.StepModel, _: Frontend) -> float:
        decode_ms = model.decode_step_ms(seqs, seqs * (prompt + output // 2))
        bare_ms = model.total_ms(seqs, seqs, 0, 0.0)
        full, rest = divmod(prompt, chunk_tokens)
        mixed_ms = full * (model.total_ms(chunk_tokens, seqs, 0, 0.0) - bare_ms)
        mixed_ms += (model.total_ms(rest + seqs, seqs, 0, 0.0) - bare_ms) if rest else 0.0
        mixed_ms += model.q * step_model.attention_pairs(prompt, 0)
        return decode_ms + (seqs - 1) / output * mixed_ms

    return Point(measured_ms, predict, "steady")


def h200_job() -> Job:
    """Llama 3.1 8B FP8 on one H200: prompt times by length, token latency by KV tokens and context length."""
    prefill, decode = _arrays("h200_llama31_8b_fp8_prefill.npz"), _arrays("h200_llama31_8b_fp8_decode.npz")
    capacity = int(decode["max_kv_tokens"][0])
    points = [
        prefill_point(int(n), 0, 8192, float(ms))
        for n, ms in zip(prefill["prefill_isl"], prefill["prefill_ttft"], strict=True)
    ]
    for usage, context, ms in zip(decode["x_kv_usage"], decode["y_context_length"], decode["z_itl"], strict=True):
        kv_tokens = float(usage) * capacity
        seqs = max(1, round(kv_tokens / float(context)))
        # More than the engine runs at once: the rest of them waited, and the latency says nothing of a step.
        if seqs <= _H200_MAX_SEQS:
            points.append(decode_point(seqs, round(kv_tokens), float(ms)))
    return Job(
        _profile(
            "h200-llama3.1-8b-fp8", "meta-llama/Llama-3.1-8B-Instruct (FP8)", "h200-sxm", 1, capacity // 16, _H200_MAX_SEQS,
            "ai-dynamo 1.6.1 test data, vLLM", "Apache-2.0",
        ),
        points,
        {"c": 0.5, "w0": 4.0, "b": 0.02, "s": 0.01, "kappa": 2.9e-5, "q": 8e-7, "frontend_ms": 12.0},
        frozenset({"c"}),
    )  # fmt: skip


def splitwise_job(hardware: str, tp: int, kv_tokens: int, start: dict[str, float]) -> Job:
    """Llama 2 70B: prompt time and mean token time by prompt length and batch size (an engine of 2023)."""
    points: list[Point] = []
    for row in _rows("splitwise_llama2_70b.csv"):
        if row["hardware"] != f"{hardware}-80gb" or int(row["tensor_parallel"]) != tp:
            continue
        prompt, batch, output = int(row["prompt_size"]), int(row["batch_size"]), int(row["token_size"])
        points.append(decode_point(batch, batch * (prompt + output // 2), float(row["token_time"])))
        if batch == 1:
            points.append(prefill_point(prompt, 0, 8192, float(row["prompt_time"])))
    return Job(
        _profile(
            f"{hardware}-llama2-70b-tp{tp}", "meta-llama/Llama-2-70b", f"{hardware}-80gb", tp, kv_tokens // 16, 256,
            "Mutinifni/splitwise-sim 8f99e7dc, data/perf_model.csv", "MIT",
        ),
        points,
        start,
        frozenset({"c", "q"}),
    )  # fmt: skip


def aiconfigurator_job(model: str, system: str, backend: str, name: str, tp: int, kv_tokens: int) -> Job:
    """Mean time per output token of aggregated serving at a constant number of requests in flight."""
    points = [
        _steady_point(int(r["batch_size"]), int(r["isl"]), int(r["osl"]), 8192, float(r["silicon_tpot_ms"]))
        for r in _rows("aiconfigurator_points.csv")
        if (r["model_path"], r["system"], r["backend"], int(r["tp_size"])) == (model, system, backend, tp)
    ]
    return Job(
        _profile(
            name, model, system.replace("_", "-"), tp, kv_tokens // 16, 512,
            f"ai-dynamo/aiconfigurator 095f58a5, silicon data, {backend}", "Apache-2.0",
        ),
        points,
        {"c": 0.5, "w0": 8.0, "b": 0.04, "s": 0.0, "kappa": 3e-5, "q": 1e-6, "frontend_ms": 12.0},
        # Where every point mixes prefill and decoding, a sequence's own cost and its KV pass for each other.
        frozenset({"c", "frontend_ms", "q", "s"}),
    )  # fmt: skip


def jobs() -> list[Job]:
    """Everything that is fitted. KV capacities not measured follow from the memory that the weights leave."""
    start = {"c": 2.0, "w0": 30.0, "b": 0.1, "s": 0.01, "kappa": 1e-4, "q": 1e-6, "frontend_ms": 12.0}
    return [
        h200_job(),
        *(splitwise_job("a100", tp, kv, start) for tp, kv in ((4, 475_000), (8, 1_390_000))),
        *(splitwise_job("h100", tp, kv, start) for tp, kv in ((4, 475_000), (8, 1_390_000))),
        aiconfigurator_job("meta-llama/Llama-3.1-8B-Instruct", "h100_sxm", "trtllm", "h100-llama3.1-8b", 1, 442_000),
        aiconfigurator_job("Qwen/Qwen3-32B", "h100_sxm", "vllm", "h100-qwen3-32b-tp2", 2, 300_000),
    ]


def _profile(
    name: str, model: str, accelerator: str, tp: int, kv_blocks: int, max_num_seqs: int, source: str, licence: str
) -> dict[str, object]:
    layers, heads, size = _KV_SHAPES[model.removesuffix(" (FP8)")]
    return {
        "name": name,
        "model": model,
        "accelerator": accelerator,
        "tp": tp,
        "kv_blocks": kv_blocks,
        "block_size": 16,
        "max_num_batched_tokens": 8192,
        "max_num_seqs": max_num_seqs,
        "kv_bytes_per_token": 2 * layers * heads * size * _KV_ELEMENT_BYTES,
        "source": source,
        "licence": licence,
    }


def _data() -> abc.Traversable:
    return resources.files("penstock.perf").joinpath("data")


def _rows(name: str) -> Iterable[dict[str, str]]:
    return list(csv.DictReader(_data().joinpath(name).read_text().splitlines()))


def _arrays(name: str) -> dict[str, npt.NDArray[np.float64]]:
    with _data().joinpath(name).open("rb") as file, np.load(file) as arrays:
        return {key: arrays[key] for key in arrays}


def main() -> int:
    """Fit every profile, write those that changed, and report the errors."""
    for job in jobs():
        made = fit(job)
        with resources.as_file(_data().joinpath("profiles")) as folder:
            text = json.dumps(json.loads(made.model_dump_json()), indent=2) + "\n"
            (folder / f"{made.name}.json").write_text(text)
        report = made.fit
        assert report is not None
        print(
            f"{made.name}: {report.points} points {report.error:.1%}, {report.held_back} held back"
            f" {report.held_back_error:.1%}; {made.step.model_dump()} frontend {made.frontend_ms:.1f} ms"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
