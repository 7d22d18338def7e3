"""The engine model: batching, chunked prefill, prefix reuse, eviction, preemption, priorities."""

import pytest

from penstock import perf
from workers.engine import block_pool, engine, types

STEP = perf.StepModel(c=1.0, w0=0.0, b=1.0, kappa=0.0, q=0.0)


def make(**limits: int) -> engine.Engine:
    """An engine of 64 blocks of 4 tokens, unless said otherwise."""
    settings = {"kv_blocks": 64, "block_size": 4, "max_num_batched_tokens": 64, "max_num_seqs": 8} | limits
    return engine.Engine(types.EngineConfig(**settings), STEP)


def run_all(model: engine.Engine) -> list[types.StepResult]:
    """Step until nothing is left."""
    results: list[types.StepResult] = []
    while (result := model.step(0.0)) is not None:
        results.append(result)
    return results


def chain(name: str, blocks: int) -> list[int]:
    """Block hashes of a prompt."""
    return [hash((name, index)) for index in range(blocks)]


def test_prefill_gives_the_first_token_and_each_step_one_more() -> None:
    """A request alone takes one prefill step and output - 1 decode steps, timed by the step model."""
    model = make()
    model.add(types.Request("a", 10, 3), 0.0)
    results = run_all(model)
    assert [round(r.duration_s * 1000) for r in results] == [11, 2, 2]
    assert [len(r.first) for r in results] == [1, 0, 0]
    assert [r.id for r in results[-1].finished] == ["a"]


def test_long_prompts_are_prefilled_in_chunks() -> None:
    """A prompt longer than the token budget takes several steps, while others go on decoding."""
    model = make(max_num_batched_tokens=16)
    model.add(types.Request("a", 4, 6), 0.0)
    model.step(0.0)
    model.add(types.Request("b", 40, 1), 0.0)
    results = run_all(model)
    assert [r.prefill_tokens for r in results[:3]] == [15, 15, 10]
    assert all(len(r.decoded) == 1 for r in results[:3])


def test_a_prefix_is_reused_but_never_the_last_token() -> None:
    """The second equal prompt computes only what is left of it, at least one token."""
    model = make()
    model.add(types.Request("a", 12, 1, chain("p", 3)), 0.0)
    run_all(model)
    again = types.Request("b", 12, 1, chain("p", 3))
    model.add(again, 0.0)
    results = run_all(model)
    assert again.cached_tokens == 8
    assert results[0].prefill_tokens == 4
    assert model.counters.prefix_hits_tokens == 8


def test_generated_blocks_can_be_reused() -> None:
    """The next turn of a conversation finds the blocks of the answer before it."""
    model = make()
    known = chain("c", 10)
    model.add(types.Request("a", 8, 9, known[:2], extend=lambda first, n: known[first : first + n]), 0.0)
    run_all(model)
    turn = types.Request("b", 24, 1, known[:6])
    model.add(turn, 0.0)
    run_all(model)
    assert turn.cached_tokens == 16


def test_the_tail_of_the_least_recently_used_is_evicted_first() -> None:
    """When blocks are short, the older prompt loses its last blocks, not its first."""
    model = make(kv_blocks=8)
    model.add(types.Request("a", 16, 1, chain("a", 4)), 0.0)
    run_all(model)
    model.add(types.Request("b", 16, 1, chain("b", 4)), 0.0)
    run_all(model)
    model.add(types.Request("c", 8, 1, chain("c", 2)), 0.0)
    run_all(model)
    assert len(model.pool.match(chain("a", 4), 4)) == 2
    assert len(model.pool.match(chain("b", 4), 4)) == 4


def test_a_full_cache_preempts_the_least_important() -> None:
    """The request of the higher priority value gives way, and still gets all its tokens later."""
    model = make(kv_blocks=6)
    model.add(types.Request("low", 8, 12, priority=5), 0.0)
    model.add(types.Request("high", 8, 12, priority=0), 1.0)
    results = run_all(model)
    assert [r.id for result in results for r in result.preempted] == ["low"]
    assert [r.id for result in results for r in result.finished] == ["high", "low"]
    assert sum(result.generated_tokens for result in results) == 24
    assert model.counters.preemptions == 1


def test_lower_priority_values_start_first() -> None:
    """Among waiting requests the lowest value goes first, then the oldest."""
    model = make(max_num_seqs=1)
    for name, priority in (("a", 1), ("b", 0), ("c", 1)):
        model.add(types.Request(name, 4, 1, priority=priority), 0.0)
    assert [r.id for result in run_all(model) for r in result.finished] == ["b", "a", "c"]


def test_abort_frees_everything() -> None:
    """An aborted request gets no more tokens and holds no block."""
    model = make()
    model.add(types.Request("a", 10, 50), 0.0)
    model.step(0.0)
    assert model.abort("a") is not None
    assert model.abort("a") is None
    assert model.step(0.0) is None
    assert model.pool.num_free == 64


def test_reset_is_refused_while_blocks_are_held() -> None:
    """The prefix cache is reset only when nothing runs, and the reset is an event."""
    model = engine.Engine(types.EngineConfig(kv_blocks=8, block_size=4, kv_events=True), STEP)
    model.add(types.Request("a", 8, 2, chain("a", 2)), 0.0)
    model.step(0.0)
    assert not model.reset_prefix_cache()
    run_all(model)
    assert model.reset_prefix_cache()
    assert model.cached_blocks == 0
    assert model.drain_kv_events() == [types.BlocksCleared()]


def test_what_can_never_fit_is_rejected() -> None:
    """A request larger than the cache is an error that says how large the cache is."""
    with pytest.raises(types.RejectedRequest, match="needs 65 KV blocks; the engine has 64"):
        make().add(types.Request("a", 257, 1), 0.0)


def test_slowdown_stretches_steps() -> None:
    """A capped engine does the same work in more time."""
    model = make()
    model.slowdown = 2.0
    model.add(types.Request("a", 10, 1), 0.0)
    assert [round(r.duration_s * 1000) for r in run_all(model)] == [22]


def test_bad_limits_are_named() -> None:
    """A limit that makes no sense names itself."""
    with pytest.raises(ValueError, match="max_num_seqs is 99"):
        make(max_num_seqs=99)
    with pytest.raises(MemoryError, match="3 blocks wanted, 2 free"):
        block_pool.BlockPool(2).allocate(3)
