"""What two readings of an engine's metrics tell of its speed, and how it is shown."""

from __future__ import annotations

import dataclasses
import urllib.request

import pytest

from controller import calibration, metrics
from penstock import perf
from penstock.api import types
from penstock.perf import online
from penstock.runtime import errors
from workers.adapters import stats

TRUTH = perf.load_profile("h200-llama3.1-8b-fp8")
IDLE = stats.EngineStats(
    running=0, waiting=0, kv_usage=0.0, kv_blocks=10_000, block_size=16, prefix_queries_tokens_total=0,
    prefix_hits_tokens_total=0, ttft_s_sum=0.0, ttft_count=0, itl_s_sum=0.0, itl_count=0,
)  # fmt: skip


def first_token(uncached: int, cached: int) -> stats.EngineStats:
    """The reading after `IDLE`, in which one request has got its first token."""
    took_ms = TRUTH.frontend_ms + TRUTH.step.prefill_ms(uncached, cached)
    return dataclasses.replace(
        IDLE, running=1, prefix_queries_tokens_total=uncached + cached, prefix_hits_tokens_total=cached, ttft_count=1,
        ttft_s_sum=took_ms / 1000,
    )  # fmt: skip


def decoding(seqs: int, kv_tokens: int, steps: int) -> tuple[stats.EngineStats, stats.EngineStats]:
    """Two readings between which `seqs` sequences decoded."""
    before = dataclasses.replace(IDLE, running=seqs, kv_usage=kv_tokens / 160_000, itl_count=50, itl_s_sum=1.0)
    took_s = steps * seqs * TRUTH.step.decode_step_ms(seqs, kv_tokens) / 1000
    return before, dataclasses.replace(before, itl_count=50 + steps * seqs, itl_s_sum=1.0 + took_s)


def taught() -> calibration.Calibrations:
    """Readings of an engine that is never busy."""
    made = calibration.Calibrations()
    for number in range(60):
        made.take("w-0", 1, IDLE, first_token(50 + 130 * number, 512 * (number % 3)))
        made.take("w-0", 1, *decoding(1 + number % 30, (1 + number % 30) * (100 + 77 * number), 100))
    return made


def test_readings_of_a_quiet_engine_tell_its_speed() -> None:
    """Single first tokens and stretches of mere decoding are learned from, to 5 %."""
    found = taught().calibration("w-0")
    assert found is not None and found.prefill.accepted > 50 and found.step.accepted > 50
    assert found.ms_per_token == pytest.approx(TRUTH.step.b, rel=0.05)
    assert found.ms_per_kv_token == pytest.approx(TRUTH.step.kappa, rel=0.05)
    assert found.step.error is not None and found.step.error < 0.02


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (IDLE, dataclasses.replace(first_token(500, 0), waiting=1)),
        (IDLE, dataclasses.replace(first_token(500, 0), ttft_count=2)),
        (dataclasses.replace(IDLE, running=3), first_token(500, 0)),
        (first_token(500, 0), IDLE),
        (dataclasses.replace(IDLE, ttft_s_sum=None), first_token(500, 0)),
        (decoding(4, 400, 100)[0], dataclasses.replace(decoding(4, 400, 100)[1], running=3)),
        (decoding(4, 400, 100)[0], dataclasses.replace(decoding(4, 400, 100)[1], prefix_queries_tokens_total=9)),
        decoding(4, 400, 3),
        (IDLE, IDLE),
    ],
    ids=["waits", "two", "not alone", "restarted", "unknown", "one ended", "a prompt began", "too few", "nothing"],
)
def test_readings_that_tell_nothing_are_left_out(before: stats.EngineStats, after: stats.EngineStats) -> None:
    """Where a time has more than one cause, nothing is learned."""
    calibrator = online.Calibrator()
    calibration.learn(calibrator, before, after)
    found = calibrator.calibration
    assert (found.prefill.accepted, found.prefill.rejected, found.step.accepted, found.step.rejected) == (0, 0, 0, 0)


def registered(speed: types.EngineSpeed | None, incarnation: int = 1) -> types.WorkerRecord:
    """The worker as it registered."""
    return types.WorkerRecord(
        id="w-0", incarnation=incarnation, deployment="d", model="m", engine="vllm", state=types.WorkerState.READY,
        endpoint=types.Endpoint(host="127.0.0.1", port=1), speed=speed,
    )  # fmt: skip


@pytest.mark.parametrize("off", [0.25, 4.0], ids=["slower", "faster"])
def test_a_registered_speed_that_is_wrong_is_replaced_once(off: float) -> None:
    """By one that predicts prefills and steps to 10 %; that one stays."""
    made = taught()
    found = made.improved(registered(perf.speed_of(TRUTH, off)))
    assert found is not None
    true = perf.speed_of(TRUTH)
    assert found.ms_per_token == pytest.approx(true.ms_per_token, rel=0.1)
    assert found.base_ms + 4000 * found.ms_per_token == pytest.approx(true.base_ms + 4000 * true.ms_per_token, rel=0.1)
    assert found.step_base_ms == pytest.approx(true.step_base_ms, rel=0.1)
    assert made.improved(registered(found)) is None
    # An agent that registers again brings its own figure back.
    assert made.improved(registered(perf.speed_of(TRUTH, off))) == found


@pytest.mark.parametrize(
    "record",
    [registered(perf.speed_of(TRUTH, 1.05)), registered(None), registered(perf.speed_of(TRUTH, 4.0), incarnation=2)],
    ids=["right", "unknown", "another"],
)
def test_other_speeds_stay(record: types.WorkerRecord) -> None:
    """One that is right to 10 %, one that is not known, one of another incarnation."""
    assert taught().improved(record) is None


def test_nothing_is_made_of_little() -> None:
    """A score of measurements tells no speed."""
    made = calibration.Calibrations()
    for number in range(20):
        made.take("w-0", 1, IDLE, first_token(50 + 130 * number, 0))
    assert made.improved(registered(perf.speed_of(TRUTH, 4.0))) is None


def test_only_the_wrong_part_changes() -> None:
    """Steps that are predicted well are left as they are."""
    true, wrong = perf.speed_of(TRUTH), perf.speed_of(TRUTH, 4.0)
    steps = {name: getattr(true, name) for name in online.STEP}
    found = taught().improved(registered(wrong.model_copy(update=steps)))
    assert found is not None and found.base_ms != wrong.base_ms
    assert {name: getattr(found, name) for name in online.STEP} == steps


def test_another_incarnation_is_learned_anew() -> None:
    """A worker that was started again, or that is gone, leaves nothing behind."""
    made = taught()
    made.take("w-0", 2, IDLE, IDLE)
    found = made.calibration("w-0")
    assert found is not None and found.prefill.accepted == 0
    made.keep(set())
    assert made.calibration("w-0") is None


async def test_the_metrics_are_served() -> None:
    """The port answers with every family; a coefficient that is unknown has no sample; without a port there is none."""
    made = taught()
    made.take("w-1", 1, IDLE, IDLE)
    server = metrics.MetricsServer(made, "127.0.0.1", 0)
    await server.start()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        taken = metrics.MetricsServer(made, "127.0.0.1", server.port)
        with pytest.raises(errors.StartError, match="metrics on 127.0.0.1"):
            await taken.start()
    finally:
        await server.stop()
    assert 'penstock_perf_coefficient_ms{coefficient="ms_per_token",worker="w-0"}' in text
    assert 'penstock_perf_error_ratio{part="step",worker="w-0"}' in text
    assert 'penstock_perf_observations_total{outcome="accepted",part="prefill",worker="w-0"}' in text
    assert 'penstock_perf_restarts_total{part="step",worker="w-1"} 0.0' in text
    assert 'penstock_perf_error_ratio{part="step",worker="w-1"}' not in text
    assert 'coefficient="ms_per_token",worker="w-1"' not in text
    off = metrics.MetricsServer(made, "127.0.0.1", None)
    await off.start()
    await off.stop()
    assert off.port is None
