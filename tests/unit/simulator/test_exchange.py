"""Several simulated gateways and what they know of each other."""

from __future__ import annotations

import pytest

from simulator import scenario, simulation
from tests.support.simulated import asked, play


def gateways(count: int, **changes: float) -> dict[str, object]:
    """Settings of that many gateways."""
    return {"policy": "default", "count": count, **changes}


def pairs(gap_s: float, count: int = 40) -> list:
    """Long prompts that each come twice, `gap_s` apart."""
    found = []
    for number in range(count):
        ids = tuple(number * 100 + block for block in range(20))
        found.append(asked(number * 2.0, 20 * 512, 5, ids, line=2 * number + 1))
        found.append(asked(number * 2.0 + gap_s, 20 * 512, 5, ids, line=2 * number + 2))
    return found


def test_four_gateways_find_prefixes_as_one_does() -> None:
    """With the exchange a prompt is found by whichever gateway its repetition meets."""
    one, four = (play(pairs(1.0), workers=4, gateways=gateways(n)).figures["reuse_blocks"] for n in (1, 4))
    assert four == pytest.approx(one, abs=0.01)
    assert one > 0.4


def test_what_has_not_arrived_is_not_known() -> None:
    """A repetition that comes sooner than the batch is placed without knowing of the first."""
    soon = pairs(0.5)
    quick = play(soon, workers=4, gateways=gateways(4)).figures["reuse_blocks"]
    slow = play(soon, workers=4, gateways=gateways(4, exchange_delay_s=4.0)).figures["reuse_blocks"]
    assert slow < quick - 0.1


def test_load_of_other_gateways_counts() -> None:
    """Requests that meet several gateways within a second are spread as evenly as by one."""
    burst = [asked(number * 0.05, 4096, 400, line=number + 1) for number in range(80)]
    one, four = (play(burst, workers=4, gateways=gateways(n)).figures["ttft_ms"]["p95"] for n in (1, 4))
    assert four < 1.5 * one


def test_gateways_agree_on_how_busy_a_worker_is() -> None:
    """Conversations whose turns meet any gateway stay where they are, as with one gateway."""
    busy = {
        "generators": [
            {
                "kind": "conversations", "name": "talks", "rate_rps": 3, "duration_s": 120, "turns": 4,
                "gap_s": {"mean": 15}, "input": {"mean": 8_000},
            },
        ],
        "fleet": {"models": [{"pools": [{"workers": 8, "kv_blocks": 16_000}]}]},
    }  # fmt: skip
    one, four = (
        simulation.run(scenario.parse(busy | {"gateways": {"count": count}})).figures["reuse_blocks"]
        for count in (1, 4)
    )
    assert four == pytest.approx(one, abs=0.02)
    assert one > 0.4
