"""Whatever is added and aborted, the engine model keeps its books."""

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import perf
from workers.engine import block_pool, engine, types

STEP = perf.StepModel(c=1.0, w0=5.0, b=0.1, kappa=1e-4, q=1e-6)


@dataclasses.dataclass(frozen=True)
class Job:
    """A request to come: when, how long, which conversation it shares its prefix with."""

    after_steps: int
    prompt: int
    output: int
    family: int
    priority: int
    abort_after: int | None


JOBS = st.lists(
    st.builds(
        Job,
        after_steps=st.integers(0, 6),
        prompt=st.integers(1, 60),
        output=st.integers(1, 30),
        family=st.integers(0, 3),
        priority=st.integers(0, 2),
        abort_after=st.none() | st.integers(0, 20),
    ),
    min_size=1,
    max_size=25,
)
CONFIGS = st.builds(
    types.EngineConfig,
    kv_blocks=st.integers(23, 60),
    block_size=st.sampled_from([4, 7]),
    max_num_batched_tokens=st.integers(8, 64),
    max_num_seqs=st.integers(1, 8),
    prefix_caching=st.booleans(),
    kv_events=st.just(True),
)


def run(config: types.EngineConfig, jobs: list[Job]) -> tuple[engine.Engine, list[object]]:
    """Play the jobs; checks the books after each step. Returns the engine and all that happened."""
    model = engine.Engine(config, STEP)
    log: list[object] = []
    tokens: dict[str, int] = {}
    requests: dict[str, types.Request] = {}
    aborts: dict[int, list[str]] = {}
    findable: set[int] = set()
    now_s, steps = 0.0, 0
    todo = sorted(enumerate(jobs), key=lambda item: item[1].after_steps)
    while True:
        while todo and todo[0][1].after_steps <= steps:
            number, job = todo.pop(0)
            request = make_request(str(number), job, config.block_size)
            model.add(request, now_s)
            requests[request.id] = request
            if job.abort_after is not None:
                aborts.setdefault(steps + job.abort_after, []).append(request.id)
        for request_id in aborts.pop(steps, ()):
            model.abort(request_id)
        result = model.step(now_s)
        steps += 1
        if result is None:
            if not todo and not aborts:
                break
            continue
        assert result.duration_s > 0, "a step that takes no time"
        assert result.prefill_tokens + len(result.decoded) <= config.max_num_batched_tokens
        assert model.num_running <= config.max_num_seqs
        now_s += result.duration_s
        for done in result.first + result.decoded:
            tokens[done.id] = tokens.get(done.id, 0) + 1
        follow_events(findable, result)
        check_books(model, findable)
        log.append((now_s, [r.id for r in result.first], [r.id for r in result.finished], len(result.decoded)))
    for request in requests.values():
        if request.state is types.State.FINISHED:
            assert tokens[request.id] == request.output_tokens == request.generated
        else:
            assert request.state is types.State.ABORTED
        assert request.cached_tokens <= request.prompt_tokens - 1
        assert not request.blocks
    return model, log


def make_request(request_id: str, job: Job, block_size: int) -> types.Request:
    """A request whose blocks are those of its family, prompt and output alike."""
    chain = [hash((job.family, index)) for index in range(100)]
    return types.Request(
        request_id,
        job.prompt,
        job.output,
        chain[: job.prompt // block_size],
        priority=job.priority,
        extend=lambda first, count: chain[first : first + count],
    )


def follow_events(findable: set[int], result: types.StepResult) -> None:
    """Apply the KV events as a subscriber does."""
    for event in result.kv_events:
        match event:
            case types.BlocksStored(_, _, hashes, _):
                assert not findable & set(hashes), "stored twice"
                findable |= set(hashes)
            case types.BlocksRemoved(hashes):
                assert findable >= set(hashes), "removed, but never stored"
                findable -= set(hashes)
            case types.BlocksCleared():
                findable.clear()


def check_books(model: engine.Engine, findable: set[int]) -> None:
    """Blocks are conserved, and those that the events tell of are those that are cached."""
    model.pool.check()
    assert len(findable) == model.cached_blocks


@settings(max_examples=150, deadline=None)
@given(CONFIGS, JOBS)
def test_books_balance(config: types.EngineConfig, jobs: list[Job]) -> None:
    """Every request gets exactly its tokens or is aborted, and in the end no block is held."""
    model, _ = run(config, jobs)
    assert model.pool.num_free == config.kv_blocks
    assert model.num_running == model.num_waiting == 0
    assert model.kv_usage == 0.0
    assert model.decode_kv_tokens == 0


@settings(max_examples=30, deadline=None)
@given(CONFIGS, JOBS)
def test_deterministic(config: types.EngineConfig, jobs: list[Job]) -> None:
    """The same input gives the same history."""
    assert run(config, jobs)[1] == run(config, jobs)[1]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 6), st.integers(0, 40)), max_size=60))
def test_block_pool_conserves(actions: list[tuple[int, int, int]]) -> None:
    """Whatever is allocated, shared, cached and released, no block is lost or both free and referenced."""
    pool = block_pool.BlockPool(12)
    held: list[list[int]] = []
    for kind, count, number in actions:
        if kind == 0 and count <= pool.num_free:
            held.append(pool.allocate(count))
            pool.cache(held[-1][0], number)
        elif kind == 1:
            found = pool.match([number], 1)
            pool.take(found)
            held.append(found)
        elif held:
            pool.release(held.pop(number % len(held)))
        pool.check()
    for blocks in held:
        pool.release(blocks)
    assert pool.num_free == 12
