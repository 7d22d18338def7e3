"""What the routing benchmark holds the default to."""

from __future__ import annotations

import dataclasses

from benchmarks.routing import play, table

PEER = play.Figures(400.0, 1_200.0, 10.0, 10.0, 4_000.0, 0.2, 0.9)
OURS = dataclasses.replace(PEER, ttft_mean_ms=330.0, reuse=0.251)


def missed(workload: str, ours: play.Figures, *peers: play.Figures) -> list[str]:
    """Of two seeds that differ by a little."""
    rows = {"default": ours} | {f"peer-{number}": each for number, each in enumerate(peers)}
    found = {
        name: [each, dataclasses.replace(each, ttft_mean_ms=each.ttft_mean_ms + 0.1)] for name, each in rows.items()
    }
    return table.missed({workload: found})


def test_a_default_that_leads_misses_nothing() -> None:
    """On the conversation and elsewhere; without peers nothing is asked."""
    for workload in ("conversation-8x2000 1x", "conversation-8x2000 4x", "agents 2x"):
        assert missed(workload, OURS, PEER) == []
    assert missed("conversation-8x2000 4x", PEER) == []


def test_each_target_that_is_missed_is_told() -> None:
    """The lead at 4x, the gaps, the reuse at 1x, and being behind by any of three figures."""
    near = dataclasses.replace(OURS, ttft_mean_ms=380.0)
    assert missed("conversation-8x2000 4x", near, PEER) == [
        "conversation-8x2000 4x: mean TTFT is 0.950 of the best other's, 0.85 is asked"
    ]
    assert missed("conversation-8x2000 3x", near, PEER) == []
    gaps = dataclasses.replace(OURS, itl_p95_ms=10.6)
    assert missed("conversation-8x2000 3x", gaps, PEER) == [
        "conversation-8x2000 3x: p95 of ITL is 1.060 of the lowest, 1.05 is asked"
    ]
    slow = dataclasses.replace(PEER, ttft_p95_ms=2_500.0, itl_p95_ms=5.0)
    assert missed("conversation-8x2000 3x", gaps, slow) == [], "one whose p95 of TTFT is more than twice ours"
    forgetful = dataclasses.replace(OURS, reuse=0.24)
    assert missed("conversation-8x2000 1x", forgetful, PEER) == [
        "conversation-8x2000 1x: reuse is 0.240, 0.25 is asked"
    ]
    behind = dataclasses.replace(OURS, ttft_mean_ms=410.0, ttft_p95_ms=1_300.0, good=0.8)
    told = missed("agents 2x", behind, PEER)
    assert [each.split()[2] for each in told] == ["ttft_mean_ms", "ttft_p95_ms", "good"]
