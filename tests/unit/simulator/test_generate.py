"""Made-up workloads have the rates, gaps, lengths and prefixes that were asked for."""

from __future__ import annotations

import statistics
from typing import Any

import numpy
import pytest

from penstock.workload import request
from simulator import generate, scenario, simulation
from tests.support.simulated import told


def made(seed: int = 0, **given: Any) -> list[request.TraceRequest]:
    """All requests of one generator."""
    base = {"name": "t", "rate_rps": 20, "duration_s": 500}
    return list(generate.requests_of(told(generators=[base | given], seed=seed)))


def test_clients_send_at_the_rate_and_burst() -> None:
    """One client's gaps have the mean and the variation of its law."""
    for law in ("gamma", "weibull"):
        found = made(kind="clients", clients=1, law=law, cv=2.0, rate_rps=40)
        gaps = numpy.diff([each.arrival_s for each in found])
        assert 1 / gaps.mean() == pytest.approx(40, rel=0.1)
        assert gaps.std() / gaps.mean() == pytest.approx(2.0, rel=0.15)


def test_weibull_shapes() -> None:
    """A variation of 1 is the exponential law; more is a smaller shape."""
    assert generate.weibull_shape(1.0) == pytest.approx(1.0, rel=1e-6)
    assert generate.weibull_shape(2.0) == pytest.approx(0.5427, abs=1e-3)


def test_lengths_have_their_mean() -> None:
    """Log-normal lengths keep the mean that is asked for, whatever their spread."""
    found = made(kind="clients", input={"mean": 500, "sigma": 0.8}, output={"mean": 100, "sigma": 0})
    assert statistics.mean(each.input_tokens for each in found) == pytest.approx(500, rel=0.05)
    assert {each.output_tokens for each in found} == {100}


def test_lengths_of_other_laws() -> None:
    """An exponential one varies as much as its mean; a Pareto tail of the same mean has far longer ones, and the same mean."""
    answers = {"mean": 100, "law": "exponential"}
    prompts = {"mean": 500, "sigma": 0.3, "tail_share": 0.3, "tail_shape": 2.5, "most": 10**9}
    found = made(kind="clients", input=prompts, output=answers)
    output = numpy.array([each.output_tokens for each in found])
    assert output.mean() == pytest.approx(100, rel=0.05) and output.std() == pytest.approx(100, rel=0.08)
    tokens = numpy.array([each.input_tokens for each in found])
    assert tokens.mean() == pytest.approx(500, rel=0.1)
    plain = made(kind="clients", input=prompts | {"tail_share": 0.0}, output=answers)
    assert tokens.max() > 3 * max(each.input_tokens for each in plain)


def test_clients_differ_by_their_spread() -> None:
    """Each has a mean of its own; without a spread all have the same."""

    def means(spread: float) -> list[float]:
        found = made(
            kind="clients", clients=8, skew=0, spread=spread, system_tokens=1024, input={"mean": 500, "sigma": 0.1}
        )
        by_client: dict[int, list[int]] = {}
        for each in found:
            assert each.block_ids is not None
            by_client.setdefault(each.block_ids[0], []).append(each.input_tokens)
        return [statistics.mean(each) for each in by_client.values()]

    alike, unlike = means(0.0), means(1.0)
    assert len(alike) == len(unlike) == 8
    assert max(alike) / min(alike) < 1.1 and max(unlike) / min(unlike) > 2


def test_prompts_of_a_group_share_its_prefix_and_no_more() -> None:
    """Two prompts have the first 32 blocks of 64 tokens in common, or none."""
    found = made(kind="prefix-groups", groups=4, prefix_tokens=2048, rate_rps=2)
    heads = {each.block_ids[:32] for each in found if each.block_ids is not None}
    assert len(heads) == 4
    tails = [each.block_ids[32:] for each in found if each.block_ids is not None]
    assert len(set(tails)) == len(tails)


def test_turns_of_a_conversation_repeat_what_was_said() -> None:
    """With few, long conversations most blocks were seen before; all begin with the system prompt."""
    found = made(kind="conversations", turns=8, rate_rps=1, gap_s={"mean": 5}, input={"mean": 4000})
    seen: set[int] = set()
    known = total = 0
    for each in found:
        assert each.block_ids is not None
        known += len(seen.intersection(each.block_ids))
        total += len(each.block_ids)
        seen.update(each.block_ids)
    assert known / total > 0.6
    assert len({each.block_ids[:8] for each in found if each.block_ids is not None}) == 1


def test_a_seed_gives_the_same_and_another_seed_other_requests() -> None:
    """Everything is drawn from the seed."""
    assert made(kind="clients") == made(kind="clients")
    assert made(kind="clients") != made(kind="clients", seed=1)


def test_generators_ask_for_their_model_and_class() -> None:
    """Each generator's requests are of its own class and model."""
    pools = [{"workers": 1}]
    played = simulation.run(
        scenario.parse(
            {
                "fleet": {"models": [{"name": "a", "pools": pools}, {"name": "b", "pools": pools}]},
                "classes": [{"name": "chat"}, {"name": "batch"}],
                "generators": [
                    {
                        "kind": "clients",
                        "name": "x",
                        "rate_rps": 5,
                        "duration_s": 10,
                        "model": "b",
                        "slo_class": "batch",
                    },
                    {
                        "kind": "prefix-groups",
                        "name": "y",
                        "rate_rps": 2,
                        "duration_s": 10,
                        "model": "a",
                        "slo_class": "chat",
                    },
                ],
            }
        )
    )
    seen = {(each.source, each.endpoint, each.group) for each in played.outcomes}
    assert seen == {("x", "w-1", 1), ("y", "w-0", 0)}
    tenants = played.figures["tenants"]
    assert tenants["x"]["requests"] + tenants["y"]["requests"] == played.figures["requests"]
    assert tenants["y"]["ttft_ms"]["p50"] == pytest.approx(played.figures["classes"]["chat"]["ttft_ms"]["p50"])
