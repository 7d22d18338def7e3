"""Whatever goes wrong in a simulated fleet, every request ends, and the books of its parts agree."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from router.policy import profiles
from simulator import scenario, simulation

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


@settings(max_examples=25, deadline=None)
@given(FAULTS, st.sampled_from(profiles.names()), st.integers(0, 1_000), st.sampled_from([400, 4_000]))
def test_every_request_ends(faults: list[dict[str, Any]], policy: str, seed: int, kv_blocks: int) -> None:
    """Completed and failed requests are all there are, their times are in order, and a second play is the same."""
    told = scenario.parse(
        {
            "fleet": {"block_size": 16, "models": [{"pools": [{"workers": WORKERS, "kv_blocks": kv_blocks}]}]},
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
    result = simulation.run(told)
    figures = result.figures
    assert figures["completed"] + figures["errors"] == figures["requests"] > 50
    for each in result.outcomes:
        if each.completed:
            assert each.sent_s is not None and each.first_s is not None and each.end_s is not None
            assert each.due_s <= each.sent_s < each.first_s <= each.end_s
    assert simulation.run(told).figures == figures
