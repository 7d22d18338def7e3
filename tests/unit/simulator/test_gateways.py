"""What a gateway keeps of requests in flight, its own and its peers', on the virtual clock."""

from __future__ import annotations

import pytest

from penstock.api.types import Capacity, Endpoint, WorkerRecord, WorkerState
from router.policy import profiles
from simulator import exchange, gateways, requests

RECORD = WorkerRecord(
    id="w", incarnation=1, deployment="d", endpoint=Endpoint(host="127.0.0.1", port=1), engine="sim", model="m",
    state=WorkerState.READY, capacity=Capacity(kv_blocks=10_000, block_size_tokens=16),
)  # fmt: skip


def door(name: str, clock: gateways.Clock) -> gateways.Gateway:
    """A gateway with one endpoint."""
    made = gateways.Gateway(name, clock, profiles.by_name("default"), requests.Blocks(16), 1 << 20)
    made.upsert(RECORD)
    return made


def sent(at: gateways.Gateway, clock: gateways.Clock, stream: bool = True) -> gateways.Call:
    """A request of 160 tokens that the gateway has routed."""
    asked = requests.Request(clock.now_s, 160, 50, list(range(10)), list(range(10)))
    feature = gateways.Feature("m", 160, None)
    feature.stream = stream
    call = gateways.Call(asked, feature, None, clock.now_s)
    call.hashes = asked.hashes
    call.pool = at.fleet.pools["m"]
    assert at.route(call) == "w"
    return call


def test_only_a_stream_tells_how_long_a_token_takes() -> None:
    """Answers that come whole change nothing; streams of 50 tokens in 0.98 s say 20 ms each."""
    clock = gateways.Clock()
    there = door("a", clock)
    backend = there.fleet.backends["w"]
    before_ms = backend.token_ms
    for _ in range(50):
        call = sent(there, clock, stream=False)
        clock.now_s += 1.0
        there.first_byte(call)
        there.complete(call, 0)
    assert backend.token_ms == before_ms
    for _ in range(200):
        call = sent(there, clock)
        clock.now_s += 0.1
        there.first_byte(call)
        clock.now_s += 0.98
        there.complete(call, 0)
    assert backend.token_ms == pytest.approx(20.0, rel=0.01)
    assert (backend.decoding, backend.decode_since_ms, backend.running) == (0, 0.0, 0)


def test_an_answer_that_comes_whole_generates_from_its_predicted_prefill_on() -> None:
    """What it has generated counts from then, not from when the gateway next looked."""
    clock = gateways.Clock()
    there = door("a", clock)
    backend = there.fleet.backends["w"]
    first = sent(there, clock, stream=False)
    clock.now_s = 5.0
    second = sent(there, clock)
    assert backend.decoding == 1
    assert 4_000.0 < backend.generated_tokens(5_000.0) * backend.token_ms < 5_000.0
    for call in (first, second):
        there.complete(call, 0)
    assert (backend.decoding, backend.running) == (0, 0)


def test_an_endpoint_that_comes_back_has_what_its_peers_say_now() -> None:
    """An endpoint that was forgotten and registers again, as the same incarnation, starts without what was told before."""
    clock = gateways.Clock()
    one, other = door("a", clock), door("b", clock)
    links = [exchange.Link(each, clock, 0.02, 3.0, shared=True) for each in (one, other)]

    def told() -> None:
        clock.now_s += 0.6
        raw = links[1].collect()
        assert raw is not None
        links[0].receive(raw)

    calls = [sent(other, clock) for _ in range(2)]
    told()
    assert one.fleet.backends["w"].peer_running == 2
    one.remove("w")
    told()
    one.upsert(RECORD)
    assert one.fleet.backends["w"].peer_running == 0
    told()
    assert one.fleet.backends["w"].peer_running == 2
    for call in calls:
        other.complete(call, 0)
    told()
    backend = one.fleet.backends["w"]
    assert (backend.peer_running, backend.peer_kv_tokens, backend.peer_waiting, backend.peer_queued_ms) == (
        0,
        0,
        0,
        0.0,
    )
