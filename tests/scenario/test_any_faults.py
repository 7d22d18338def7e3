"""Whatever goes wrong in a simulated fleet, every request ends, and the books of its parts agree."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.policy import profiles
from simulator import results, scenario, simulation
from tests.support.simulated import nothing_left

WORKERS, GATEWAYS = 3, 2
_TIME = st.floats(0, 30)
_WORKER = st.integers(0, WORKERS - 1)
_FOR = st.floats(0.5, 15)


def fault(kind: str, **keys: Any) -> Any:
    """A strategy for one kind of fault."""
    return st.fixed_dictionaries({"kind": st.just(kind), "at_s": _TIME, **keys})


FAULTS = st.lists(
    st.one_of(
        fault("kill", worker=_WORKER, restart=st.booleans()),
        fault("slow", worker=_WORKER, factor=st.floats(1.1, 20), for_s=_FOR),
        fault("hang", worker=_WORKER, for_s=_FOR),
        fault("drain", worker=_WORKER),
        fault("join", workers=st.integers(1, 2)),
        fault("partition", gateway=st.integers(0, GATEWAYS - 1), for_s=_FOR),
        fault("event-loss", share=st.floats(0.1, 1), for_s=_FOR),
    ),
    max_size=5,
)


PAIR_FAULTS = st.lists(
    st.one_of(
        fault("kill", worker=_WORKER, restart=st.booleans()),
        fault("slow", worker=_WORKER, factor=st.floats(1.1, 20), for_s=_FOR),
        fault("slow-link", worker=_WORKER, factor=st.floats(1.1, 1_000), for_s=_FOR),
        fault("hang", worker=_WORKER, for_s=_FOR),
        fault("drain", worker=_WORKER),
        fault("join", workers=st.integers(1, 2), like=_WORKER),
        fault("partition", gateway=st.integers(0, GATEWAYS - 1), for_s=_FOR),
    ),
    max_size=5,
)


def told(pools: list[dict[str, Any]], faults: list[dict[str, Any]], policy: str, seed: int, **fleet: Any) -> Any:
    """Conversations of two classes on these pools, behind two gateways."""
    return scenario.parse(
        {
            "fleet": {"block_size": 16, "models": [{"pools": pools}], **fleet},
            "gateways": {"count": GATEWAYS, "policy": policy},
            "cold_start": {"median_s": 5},
            "faults": faults,
            "seed": seed,
            "classes": [{"name": "first", "priority": 0}, {"name": "second", "priority": 1}],
            "generators": [
                {
                    "kind": "conversations",
                    "name": "talk",
                    "rate_rps": 6,
                    "duration_s": 30,
                    "gap_s": {"mean": 4},
                    "input": {"mean": 1500, "most": 4500},
                    "output": {"mean": 150, "most": 1000},
                }
            ],
        }
    )


def check(result: results.Result) -> None:
    """Completed and failed requests are all there are, each once, and their times are in order."""
    figures = result.figures
    assert sorted(each.line for each in result.outcomes) == sorted(
        each.line for each in simulation.workload(result.scenario)
    )
    assert len({each.line for each in result.outcomes}) == len(result.outcomes)
    assert figures["completed"] + figures["errors"] == figures["requests"] > 50
    for each in result.outcomes:
        if each.completed:
            assert each.sent_s is not None and each.first_s is not None and each.end_s is not None
            assert each.due_s <= each.sent_s < each.first_s <= each.end_s


@settings(max_examples=25, deadline=None)
@given(FAULTS, st.sampled_from(profiles.names()), st.integers(0, 1_000), st.sampled_from([400, 4_000]))
def test_every_request_ends(faults: list[dict[str, Any]], policy: str, seed: int, kv_blocks: int) -> None:
    """Completed and failed requests are all there are, their times are in order, and a second play is the same."""
    values = told([{"workers": WORKERS, "kv_blocks": kv_blocks}], faults, policy, seed)
    result = simulation.run(values)
    check(result)
    assert simulation.run(values).figures == result.figures


@settings(max_examples=25, deadline=None)
@given(
    PAIR_FAULTS,
    st.sampled_from(["default", "round-robin", "llm-d"]),
    st.integers(0, 1_000),
    st.sampled_from([400, 4_000]),
    st.sampled_from([0.3, 50.0]),
    st.sampled_from([0.0, 2.0]),
    st.sampled_from(["prefill", "decode"]),
)
def test_every_pair_ends(
    faults: list[dict[str, Any]], policy: str, seed: int, kv_blocks: int, gbytes_s: float, network_ms: float, first: str
) -> None:
    """So it is where prompts and answers have workers of their own; nothing is left of any, and bytes and tokens add up."""
    pools = [
        {"role": role, "workers": count, "kv_blocks": kv_blocks} for role, count in (("prefill", 1), ("decode", 2))
    ]
    links = {"kv_transfer_gbytes_s": gbytes_s, "network_ms": network_ms, "first_token": first}
    values = told(pools, faults, policy, seed, **links)
    played = simulation.prepare(values)
    played.run()
    nothing_left(played)
    result = results.summarize(values, played.tally, list(played.workers.values()), simulation.BIN_S)
    check(result)
    figures = result.figures
    sent = [sum(pool[key] for pool in figures["pools"].values()) for key in ("sent_bytes", "received_bytes")]
    assert sent == pytest.approx([figures["transfers"]["bytes"]] * 2)
    if not faults:
        assert figures["errors"] == 0
        tokens = sum(each.output_tokens for each in simulation.workload(values))
        assert figures["output_tokens"] == tokens
        engines = [there.engine.counters for there in played.workers.values()]
        unseen = figures["requests"] if first == "decode" else 0
        assert sum(each.generation_tokens for each in engines) == tokens + unseen
    assert simulation.run(values).figures == figures
