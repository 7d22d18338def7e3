"""Energy of simulated workers."""

from __future__ import annotations

import pytest

from penstock import perf
from simulator import power
from tests.support.simulated import asked, play

PROFILE = perf.load_profile("h200-llama3.1-8b-fp8")


def test_energy_is_that_of_the_phases_and_of_idling() -> None:
    """Prompts draw prefill power, a lone sequence the least decode power, and the rest of the time is idle."""
    result = play([asked(0.0, 8000, 3)])
    prefill_s = PROFILE.step.step_ms([(8000, 0)]) / 1000
    decode_s = sum(PROFILE.step.decode_step_ms(1, 8000 + token) for token in (1, 2)) / 1000
    lasted_s = result.figures["wall_s"]
    draw = power.of(PROFILE)
    assert draw is not None
    idle_j = (2 * lasted_s - prefill_s - decode_s) * 75.0
    assert result.figures["joules"] == pytest.approx(700.0 * prefill_s + draw.decode_w(1) * decode_s + idle_j)


def test_decoding_draws_more_with_more_sequences() -> None:
    """From the low figure to the high one, half way where its middle is, for each accelerator of the engine."""
    one = power.Draw(75.0, 700.0, 100.0, 300.0, 4.0)
    assert one.decode_w(16) == pytest.approx(200.0)
    assert 100 < one.decode_w(1) < one.decode_w(64) < 300
    four = power.of(perf.load_profile("h100-llama2-70b-tp4"))
    assert four is not None
    assert four.idle_w == 4 * 74.0


def test_unknown_power_is_unknown() -> None:
    """A profile without known accelerators has no joules, which is not zero."""
    assert power.of(perf.load_profile("cpu-tiny")) is None
    fleet = {"models": [{"profile": "cpu-tiny", "pools": [{"workers": 1}]}], "block_size": 16}
    assert play([asked(0.0, 600, 2)], fleet=fleet).figures["joules"] is None
