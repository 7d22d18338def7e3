"""The fleet keeps slots, pools, load classes and caches in step with its records; the account counts."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from typing import Any

import pytest

from penstock.api.types import Capacity, Endpoint, EngineSpeed, WorkerRecord, WorkerState
from router.dataplane import account, fleet, gateway, upstream
from router.index import prefix
from router.policy import profiles


def record(name: str, incarnation: int = 1, **fields: Any) -> WorkerRecord:
    values: dict[str, Any] = {"model": "m", "state": WorkerState.READY, **fields}
    return WorkerRecord(
        id=name,
        incarnation=incarnation,
        deployment="d",
        endpoint=Endpoint(host="127.0.0.1", port=1),
        engine="sim",
        **values,
    )


@pytest.fixture
def endpoints() -> Iterator[fleet.Fleet]:
    loop = asyncio.new_event_loop()
    yield fleet.Fleet(
        prefix.PrefixIndex(1 << 20), lambda each: upstream.Connections(loop, each.endpoint.host, each.endpoint.port)
    )
    loop.close()


def test_slots_are_used_again_and_carry_nothing_over(endpoints: fleet.Fleet) -> None:
    """A removed endpoint's slot goes to the next one, without the blocks and the load of the one before."""
    first = endpoints.upsert(record("a"))
    endpoints.upsert(record("b"))
    endpoints.index.insert(first.slot, [1, 2, 3])
    first.running = 9
    endpoints.touch(first)
    endpoints.remove("a")
    again = endpoints.upsert(record("c"))
    assert again.slot == first.slot == 0
    assert len(endpoints.by_slot) == 2
    assert endpoints.index.match([1, 2, 3], again.bit) == [(0, again.bit)]
    assert again in endpoints.shortlist(again.bit, 1)
    assert sum(bucket.bit_count() for bucket in endpoints.buckets) == 2
    assert endpoints.remove("nobody") is None


def test_new_incarnation_has_an_empty_cache_and_an_update_keeps_it(endpoints: fleet.Fleet) -> None:
    """A restarted worker starts cold; a new record of the same one changes only what it says."""
    backend = endpoints.upsert(record("a"))
    endpoints.index.insert(backend.slot, [1, 2])
    same = endpoints.upsert(record("a", capacity=Capacity(kv_blocks=10, block_size_tokens=16)))
    assert same is backend
    assert endpoints.index.blocks_of(same.slot) == 2
    new = endpoints.upsert(record("a", incarnation=2))
    assert new is not backend
    assert endpoints.index.blocks_of(new.slot) == 0
    assert list(endpoints.backends.values()) == [new]
    assert list(endpoints.pools["m"].members.values()) == [new]


def test_a_speed_that_was_learned_is_predicted_with(endpoints: fleet.Fleet) -> None:
    """From the next record on; without one it is the assumed one again."""
    backend = endpoints.upsert(record("a", speed=EngineSpeed(base_ms=10, ms_per_token=0.1)))
    assert backend.prefill_ms(1000, 0) == pytest.approx(100)
    same = endpoints.upsert(record("a", speed=EngineSpeed(base_ms=20, ms_per_token=0.4, step_base_ms=7)))
    assert same is backend and backend.prefill_ms(1000, 0) == pytest.approx(400)
    assert (backend.base_ms, backend.step_base_ms) == (20, 7)
    assert endpoints.upsert(record("a")).ms_per_token == fleet.ASSUMED_SPEED.ms_per_token


def test_adapters_are_pools_of_their_own(endpoints: fleet.Fleet) -> None:
    """Each adapter is a model name with a seed of its own; unloading it from the last endpoint ends its pool."""
    backend = endpoints.upsert(record("a", adapters=("lora-1", "lora-2")))
    endpoints.upsert(record("b"))
    assert set(endpoints.pools) == {"m", "lora-1", "lora-2"}
    assert len({pool.seed for pool in endpoints.pools.values()}) == 3
    assert endpoints.pools["lora-1"].bits == backend.bit
    endpoints.upsert(record("a", adapters=("lora-2",)))
    assert set(endpoints.pools) == {"m", "lora-2"}
    assert endpoints.pools["m"].bits == 0b11


@pytest.mark.parametrize(
    ("state", "health", "routed"),
    [
        (WorkerState.STARTING, fleet.Health.STARTING, False),
        (WorkerState.READY, fleet.Health.OK, True),
        (WorkerState.DRAINING, fleet.Health.DRAINING, False),
    ],
)
def test_only_ready_endpoints_take_requests(
    endpoints: fleet.Fleet, state: WorkerState, health: fleet.Health, routed: bool
) -> None:
    """A starting or draining worker is known and not routed to, also when it changes later."""
    endpoints.upsert(record("b"))
    backend = endpoints.upsert(record("a", state=state))
    assert backend.health is health
    assert bool(endpoints.pools["m"].bits & backend.bit) is routed
    assert (backend in endpoints.pools["m"].observed.endpoints) is routed
    endpoints.upsert(record("a", state=WorkerState.DRAINING))
    assert [each.id for each in endpoints.pools["m"].observed.endpoints] == ["b"]
    endpoints.upsert(record("a"))
    assert {each.id for each in endpoints.pools["m"].observed.endpoints} == {"a", "b"}


def test_shortlist_is_least_loaded_first_and_rotates(endpoints: fleet.Fleet) -> None:
    """The least loaded classes come first; among equals each gets its turn."""
    backends = [endpoints.upsert(record(f"w-{number}")) for number in range(8)]
    for backend, running in zip(backends, (0, 0, 0, 0, 1, 4, 40, 400), strict=True):
        backend.running = running
        endpoints.touch(backend)
    everyone = (1 << 8) - 1
    assert [each.slot for each in endpoints.shortlist(everyone, 8)][4:] == [4, 5, 6, 7]
    assert [each.slot for each in endpoints.shortlist(0b11100000, 2)] == [5, 6]
    assert endpoints.shortlist(0, 3) == []
    firsts = {endpoints.shortlist(everyone, 1)[0].slot for _ in range(16)}
    assert firsts == {0, 1, 2, 3}
    backends[7].running = 0
    endpoints.touch(backends[7])
    assert 7 in {endpoints.shortlist(everyone, 1)[0].slot for _ in range(16)}


def test_only_this_gateways_changes_are_to_be_told(endpoints: fleet.Fleet) -> None:
    """What others have in flight moves an endpoint to another class, and nobody is woken to send it on."""
    backend = endpoints.upsert(record("a"))
    woken: list[int] = []
    endpoints.on_changed = lambda: woken.append(len(endpoints.changed))
    backend.peer_running = 100
    endpoints.classify(backend)
    assert endpoints.buckets[7] == backend.bit
    assert (woken, endpoints.changed) == ([], set())
    endpoints.touch(backend)
    endpoints.touch(backend)
    assert (woken, endpoints.changed) == ([0], {backend})


def test_a_new_pool_knows_nothing_but_the_usual(endpoints: fleet.Fleet) -> None:
    """An answer's usual length, the whole cache, and nobody who comes later."""
    endpoints.upsert(record("a"))
    seen = endpoints.pools["m"].observed
    assert (seen.output_tokens, seen.kv_share, seen.followers_per_ms) == (fleet.DEFAULT_OUTPUT_TOKENS, 1.0, 0.0)


def test_ratio_of_bytes_to_tokens_is_learned_within_reason(endpoints: fleet.Fleet) -> None:
    """Reports move the ratio towards what engines count; short prompts and absurd numbers do not spoil it."""
    endpoints.upsert(record("a"))
    pool = endpoints.pools["m"]
    pool.learn_ratio(63, 15)
    assert pool.bytes_per_token == fleet.DEFAULT_BYTES_PER_TOKEN
    for _ in range(400):
        pool.learn_ratio(3_000, 1_000)
    assert pool.bytes_per_token == pytest.approx(3.0, abs=0.01)
    assert pool.tokens_at(8) == int(512 / pool.bytes_per_token)
    for _ in range(2_000):
        pool.learn_ratio(10**9, 16)
    assert pool.bytes_per_token <= 64


def test_histogram_counts_into_the_right_bucket() -> None:
    """A value on a bound belongs below it, as Prometheus has it; what is over all bounds is kept too."""
    histogram = account.Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 9.0):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 1]
    assert histogram.total == 14.0


def test_account_counts_by_key() -> None:
    """Answers by model and status, refusals and retries by reason, totals per model."""
    book = account.Account()
    book.answered("m", 200)
    book.answered("m", 200)
    book.answered("m", 499)
    book.refused("overloaded")
    book.retried("lost")
    book.retried("lost")
    assert book.answers == {("m", 200): 2, ("m", 499): 1}
    assert (book.refusals, book.retries) == ({"overloaded": 1}, {"lost": 2})
    assert book.model("m") is book.model("m")
    assert book.model("m") is not book.model("n")


def test_capacity_is_known_to_policies(endpoints: fleet.Fleet) -> None:
    """KV tokens that an engine holds, and infinity while it has not said."""
    assert endpoints.upsert(record("a")).capacity_tokens == float("inf")
    assert endpoints.upsert(record("a", capacity=Capacity(kv_blocks=10, block_size_tokens=16))).capacity_tokens == 160.0


def test_what_was_placed_fades(endpoints: fleet.Fleet) -> None:
    """Recent placements count 1/e after three minutes, prefills after half of one, by the gateway's ticks."""
    backend = endpoints.upsert(record("a"))
    loop = asyncio.new_event_loop()
    owner = gateway.Gateway(loop, endpoints, profiles.by_name("default"), gateway.Limits(), "gw")
    loop.close()
    backend.placed(1_000, 400, 70.0)
    owner.tick = int(30 / fleet.TICK_S)
    owner.fade()
    assert backend.busy_ms == pytest.approx(70 / math.e)
    owner.tick = int(180 / fleet.TICK_S)
    owner.fade()
    owner.fade()
    assert backend.recent_requests == pytest.approx(1 / math.e)
    assert (backend.recent_prompt_tokens, backend.recent_uncached_tokens) == pytest.approx(
        (1_000 / math.e, 400 / math.e)
    )
    assert backend.placed_tokens == 400
