"""One engine keeps KV for another: what it holds, what that takes, and when it goes on."""

from __future__ import annotations

import pytest

from penstock import perf
from workers.engine import engine, types

STEP = perf.StepModel(c=1.0, w0=5.0, b=0.1, kappa=1e-4, q=1e-6)


def made(kv_blocks: int = 8, **changes: int) -> engine.Engine:
    """An engine with blocks of four tokens."""
    return engine.Engine(types.EngineConfig(kv_blocks=kv_blocks, block_size=4, **changes), STEP)


def test_kv_is_held_until_it_is_released() -> None:
    """A finished prompt keeps its blocks, so that one behind it waits; then it is cached, and free."""
    model = made(kv_blocks=3)
    first, second = types.Request("a", 9, 1, (1, 2), hold=True), types.Request("b", 5, 2)
    model.add(first, 0.0)
    model.add(second, 0.0)
    result = model.step(0.0)
    assert result is not None and [each.id for each in result.finished] == ["a"]
    assert (model.num_held, model.num_running, model.num_waiting) == (1, 0, 1)
    assert model.step(1.0) is None
    assert model.release("a")
    assert not model.release("a")
    assert model.step(2.0) is not None
    assert (model.num_held, model.num_running) == (0, 1)


def test_an_aborted_request_gives_up_what_it_holds() -> None:
    """Held or on its way, nothing is left of it."""
    model = made()
    model.add(types.Request("a", 9, 1, hold=True), 0.0)
    model.add(types.Request("b", 9, 5, remote=True), 0.0)
    result = model.step(0.0)
    assert result is not None and [each.id for each in result.receiving] == ["b"]
    assert model.abort("a") is not None and model.abort("b") is not None
    assert model.pool.num_free == 8
    assert not model.received("b")


@pytest.mark.parametrize(("known", "generated"), [(1, 3), (0, 4)])
def test_kv_from_elsewhere_is_decoded_on(known: int, generated: int) -> None:
    """Blocks are taken at once, and no more than the answer needs; tokens come from the step after its arrival on."""
    model = made(kv_blocks=3)
    model.add(types.Request("a", 9, 4, (1, 2), remote=True, known=known), 0.0)
    result = model.step(0.0)
    assert result is not None and (result.duration_s, result.generated_tokens) == (0.0, 0)
    assert result.receiving[0].missing_tokens == 9
    assert (model.num_receiving, model.pool.num_free) == (1, 0)
    assert model.step(0.5) is None
    assert model.received("a")
    ends = []
    while (result := model.step(1.0)) is not None:
        ends.append([each.id for each in result.finished])
    assert ends == [[]] * (generated - 1) + [["a"]]
    assert (model.counters.generation_tokens, model.counters.preemptions) == (generated, 0)
    # The prompt's full blocks can be found by the next one.
    model.add(types.Request("b", 8, 4, (1, 2), remote=True, known=known), 2.0)
    result = model.step(2.0)
    assert result is not None and result.receiving[0].missing_tokens == (0 if known else 4)


def test_what_is_on_its_way_has_a_place() -> None:
    """No more run, with those whose KV comes, than the engine lets run at once."""
    model = made(max_num_seqs=1)
    model.add(types.Request("a", 4, 3, remote=True), 0.0)
    model.add(types.Request("b", 4, 3), 0.0)
    model.step(0.0)
    assert model.step(0.1) is None
    model.received("a")
    result = model.step(0.2)
    assert result is not None and [each.id for each in result.joined] == ["a"]
    assert model.num_waiting == 1


def test_an_answer_that_is_there_already_is_refused() -> None:
    """Its only token came with the KV."""
    with pytest.raises(types.RejectedRequest, match="its only token"):
        types.Request("a", 4, 1, remote=True)
    types.Request("a", 4, 1, remote=True, known=0)
