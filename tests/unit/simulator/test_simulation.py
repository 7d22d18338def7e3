"""A simulated fleet: times, reuse, figures, determinism."""

from __future__ import annotations

import json
import math

import pytest

from penstock import perf
from penstock.workload import request
from router.policy import profiles
from simulator import scenario, simulation
from tests.support.simulated import asked, play, told

PROFILE = perf.load_profile("h200-llama3.1-8b-fp8")


def sessions(count: int, turns: int) -> list[request.TraceRequest]:
    """Conversations whose prompts grow by a block each turn."""
    found = []
    for turn in range(turns):
        for session in range(count):
            ids = tuple(session * 100 + block for block in range(4 + turn))
            line = 1 + len(found)
            found.append(asked(line * 0.2, (4 + turn) * 512 + 9, 20, ids, line=line))
    return found


def test_a_lone_request_takes_what_the_step_model_says() -> None:
    """TTFT is the frontend and the prefill in chunks; each further token is one decode step."""
    result = play([asked(0.0, 20_000, 3)])
    chunks = [PROFILE.step.step_ms([(size, done)]) for size, done in ((8192, 0), (8192, 8192), (3616, 16384))]
    decoding = [PROFILE.step.decode_step_ms(1, 20_001), PROFILE.step.decode_step_ms(1, 20_002)]
    only = result.outcomes[0]
    assert only.ttft_s == pytest.approx((PROFILE.frontend_ms + sum(chunks)) / 1000)
    assert only.e2e_s == pytest.approx((PROFILE.frontend_ms + sum(chunks) + sum(decoding)) / 1000)
    assert result.figures["itl_ms"]["mean"] == pytest.approx(sum(decoding) / 2)
    assert result.figures["joules"] > 0


def test_an_arrival_waits_for_the_step_under_way() -> None:
    """A request that comes during a long stretch begins with the next step, not after the stretch."""
    late = asked(1.0, 512, 2, line=2)
    result = play([asked(0.0, 512, 2_000), late], workers=1)
    step_s = PROFILE.step.decode_step_ms(1, 1_000) / 1000
    alone_s = PROFILE.frontend_ms / 1000 + PROFILE.step.step_ms([(512, 0)]) / 1000
    assert alone_s < result.outcomes[1].ttft_s < alone_s + 2 * step_s


def test_the_network_delays_both_ways() -> None:
    """A request and its answer each take the network's time."""
    near, far = (play([asked(0.0, 600, 3)], fleet={"network_ms": ms}).outcomes[0] for ms in (0.0, 10.0))
    assert far.ttft_s == pytest.approx(near.ttft_s + 0.02)
    assert far.e2e_s == pytest.approx(near.e2e_s + 0.02)


def test_a_shared_prefix_is_reused_where_it_is() -> None:
    """The same prompt again goes to the worker that has it, and only its last block is computed."""
    ids = tuple(range(8))
    result = play([asked(0.0, 4096, 5, ids), asked(5.0, 4096, 5, ids, line=2)])
    first, second = result.outcomes
    assert first.endpoint == second.endpoint
    assert (first.cached_tokens, second.cached_tokens) == (0, 7 * 512)
    assert result.figures["reuse_blocks"] == 7 / 16


@pytest.mark.parametrize("policy", profiles.names())
def test_the_same_seed_gives_the_same_run(policy: str) -> None:
    """Every profile plays to the end, and twice the same."""
    found = sessions(6, 5)
    results = [play(found, policy, gateways={"policy": policy, "count": 2}) for _ in range(2)]
    assert results[0].figures["completed"] == len(found)
    assert json.dumps(results[0].figures) == json.dumps(results[1].figures)


def test_prefix_routing_reuses_more_than_taking_turns() -> None:
    """On conversations the default finds what round robin scatters."""
    found = sessions(7, 8)
    default, turns = (play(found, policy).figures["reuse_blocks"] for policy in ("default", "round-robin"))
    assert default > turns + 0.1


def test_speed_compresses_arrivals() -> None:
    """At twice the speed the run lasts half as long, and requests come in half the time."""
    found = sessions(4, 10)
    slow, quick = (play(found, speed=speed) for speed in (1.0, 2.0))
    assert quick.outcomes[-1].sent_s == pytest.approx(slow.outcomes[-1].sent_s / 2)


def test_classes_have_figures_of_their_own() -> None:
    """Requests are shared out to classes by weight; goodput counts each by its own targets."""
    classes = [{"name": "chat", "ttft_ms": 1, "share": 1}, {"name": "batch", "share": 3}]
    figures = play(sessions(10, 10), classes=classes).figures
    chat, batch = figures["classes"]["chat"], figures["classes"]["batch"]
    assert chat["requests"] + batch["requests"] == 100
    assert 10 < chat["requests"] < 45
    assert chat["good"] == 0
    assert figures["good"] == batch["good"] == batch["completed"]


def test_what_can_never_fit_is_refused() -> None:
    """A prompt larger than a worker's cache fails with the engine's status, and the run goes on."""
    result = play([asked(0.0, 150_000, 5), asked(0.1, 100, 5, line=2)])
    assert [each.error for each in result.outcomes] == ["http_400", None]
    assert result.figures["errors_by_kind"] == {"http_400": 1}


def test_a_workload_without_requests_is_an_error() -> None:
    """Nothing to play is said, not shown as zeros."""
    with pytest.raises(scenario.ScenarioError, match="no request"):
        simulation.run(told(), [])


def test_blocks_must_fit() -> None:
    """A block size that does not divide the trace's is refused with both numbers."""
    with pytest.raises(scenario.ScenarioError, match=r"block_size is 100.*512"):
        play([asked(0.0, 600, 1)], fleet={"block_size": 100})


def test_smaller_engine_blocks_share_the_same_prefix() -> None:
    """With engine blocks of 16 tokens the cached prefix is as long, but for the last block."""
    ids = tuple(range(8))
    fleet = {"block_size": 16, "models": [{"pools": [{"workers": 1}]}]}
    result = play([asked(0.0, 4096, 5, ids), asked(5.0, 4096, 5, ids, line=2)], fleet=fleet)
    assert result.outcomes[1].cached_tokens == 4096 - 16


def test_figures_are_json() -> None:
    """Every figure can be written, and none is NaN."""
    text = json.dumps(play(sessions(2, 2)).figures, allow_nan=False)
    assert not math.isnan(json.loads(text)["imbalance"])
