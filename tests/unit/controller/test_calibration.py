"""What two readings of an engine's metrics tell of its speed, and how it is shown."""

from __future__ import annotations

import dataclasses
import urllib.request

import pytest

from controller import calibration, metrics
from penstock import perf
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
