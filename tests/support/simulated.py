"""Builders of small simulations."""

from __future__ import annotations

from typing import Any

from penstock.workload import request
from simulator import cluster, results, scenario, simulation


def asked(
    at_s: float, prompt: int, output: int, ids: tuple[int, ...] = (), *, line: int = 1, session: str | None = None
) -> request.TraceRequest:
    """One request; blocks of 512 tokens, with ids of its own where none are given."""
    count = -(-prompt // 512)
    own = ids + tuple(range(10_000 + line * 1_000, 10_000 + line * 1_000 + count))
    return request.TraceRequest(at_s, prompt, output, "test", line, own[:count], 512, session=session)


def told(policy: str = "default", workers: int = 2, kv_blocks: int = 200, **changes: Any) -> scenario.Scenario:
    """A scenario of one model on equal workers."""
    base: dict[str, Any] = {
        "fleet": {"models": [{"pools": [{"workers": workers, "kv_blocks": kv_blocks}]}]},
        "gateways": {"policy": policy},
    }
    return scenario.Scenario.model_validate(base | changes)


def play(found: list[request.TraceRequest], policy: str = "default", **changes: Any) -> results.Result:
    """Runs requests through `told`."""
    return simulation.run(told(policy, **changes), found)


def nothing_left(played: cluster.Cluster) -> None:
    """No engine, link or gateway has anything of a request that is over."""
    for there in played.workers.values():
        assert not there.calls
        if there.ready:
            assert there.engine.num_held == there.engine.num_receiving == there.engine.num_waiting == 0
        if played.handover is not None:
            assert played.handover.links.under_way(there.id) == (0, 0)
    for door in played.gateways:
        for backend in door.fleet.backends.values():
            books = (backend.running, backend.kv_tokens, backend.queued_tokens, backend.waiting, backend.decoding)
            assert (backend.id, *books) == (backend.id, 0, 0, 0, 0, 0)
            assert not backend.active
