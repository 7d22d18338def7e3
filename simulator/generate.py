"""Made-up workloads: bursty clients, groups of prompts with a common prefix, growing conversations.

Everything is drawn from one generator of random numbers per workload, so that a workload does not change with its
neighbours. Prompts are block ids: equal ids at the start are an equal prefix.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterator

import numpy

from penstock.workload import request
from simulator import scenario

# Ids of one workload; below 2^48 in all, so that they can be cut into smaller blocks.
_IDS_EACH = 1 << 40
# Ids of one conversation or prefix.
_RUN = 1 << 16


def requests_of(told: scenario.Scenario) -> Iterator[request.TraceRequest]:
    """All generators' requests in order of arrival; `source` is the generator's name."""
    size = told.generated_block_tokens
    made: list[Iterator[request.TraceRequest]] = []
    for place, each in enumerate(told.generators):
        rng = numpy.random.default_rng([told.seed, place])
        ids = itertools.count(place * _IDS_EACH, _RUN)
        if isinstance(each, scenario.Clients):
            made.append(_clients(each, rng, ids, size))
        elif isinstance(each, scenario.PrefixGroups):
            made.append(_prefix_groups(each, rng, ids, size))
        else:
            made.append(_conversations(each, rng, ids, size))
    yield from heapq.merge(*made, key=lambda each: each.arrival_s)


def _length(rng: numpy.random.Generator, wanted: scenario.Lengths, factor: float = 1.0) -> float:
    """A length whose mean is `factor` times the wanted one, before it is cut."""
    if wanted.tail_share and rng.random() < wanted.tail_share:
        shape = wanted.tail_shape
        drawn = wanted.mean * (shape - 1.0) / shape * (1.0 + float(rng.pareto(shape)))
    elif wanted.law == "exponential":
        drawn = float(rng.exponential(wanted.mean))
    else:
        drawn = wanted.mean * math.exp(wanted.sigma * float(rng.standard_normal()) - wanted.sigma**2 / 2)
    return min(float(wanted.most), factor * drawn)


def _tokens(rng: numpy.random.Generator, wanted: scenario.Lengths, factor: float = 1.0) -> int:
    return max(1, round(_length(rng, wanted, factor)))


def _zipf(count: int, skew: float) -> numpy.ndarray:
    weights = numpy.arange(1, count + 1, dtype=float) ** -skew
    shares: numpy.ndarray = weights / weights.sum()
    return shares


def _prompt(shared: int, shared_tokens: int, own: int, tokens: int, size: int) -> tuple[int, ...]:
    """Ids of a prompt whose first whole blocks within `shared_tokens` are counted from `shared`, the others from `own`."""
    common = shared_tokens // size
    return (*range(shared, shared + common), *range(own, own + -(-tokens // size) - common))


def _request(
    wanted: scenario.Generator, number: int, arrival_s: float, ids: tuple[int, ...], tokens: int, output: int, size: int
) -> request.TraceRequest:
    return request.TraceRequest(
        wanted.start_s + arrival_s, tokens, output, wanted.name, number, block_ids=ids, block_tokens=size
    )


def _clients(
    wanted: scenario.Clients, rng: numpy.random.Generator, ids: Iterator[int], size: int
) -> Iterator[request.TraceRequest]:
    """Renewal processes, one per client, each with gaps of the law and a system prompt of its own."""
    arrivals: list[tuple[float, int]] = []
    draw = _gaps(wanted.law, wanted.cv, rng)
    for client, share in enumerate(_zipf(wanted.clients, wanted.skew)):
        mean_s = 1.0 / (wanted.rate_rps * float(share))
        # The process is under way when it is first looked at: it begins somewhere within a gap.
        now_s = draw() * mean_s * float(rng.random())
        while now_s < wanted.duration_s:
            arrivals.append((now_s, client))
            now_s += draw() * mean_s
    arrivals.sort()
    systems = [next(ids) for _ in range(wanted.clients)]
    # Of mean 1 each, so that the whole keeps its means.
    own = numpy.ones((wanted.clients, 2))
    if wanted.spread:
        own = numpy.exp(wanted.spread * rng.standard_normal((wanted.clients, 2)) - wanted.spread**2 / 2)
    for number, (arrival_s, client) in enumerate(arrivals, 1):
        longer, chattier = (float(each) for each in own[client])
        tokens = wanted.system_tokens + _tokens(rng, wanted.input, longer)
        found = _prompt(systems[client], wanted.system_tokens, next(ids), tokens, size)
        yield _request(wanted, number, arrival_s, found, tokens, _tokens(rng, wanted.output, chattier), size)


def _gaps(law: str, cv: float, rng: numpy.random.Generator) -> Callable[[], float]:
    """Draws gaps of mean 1 with that coefficient of variation."""
    if law == "gamma":
        shape = 1.0 / cv**2
        return lambda: float(rng.gamma(shape, 1.0 / shape))
    shape = weibull_shape(cv)
    scale = 1.0 / math.gamma(1.0 + 1.0 / shape)
    return lambda: float(rng.weibull(shape)) * scale


def weibull_shape(cv: float) -> float:
    """Shape of the Weibull law whose coefficient of variation is `cv`, by halving: it falls as the shape rises."""
    low, high = 0.05, 50.0
    for _ in range(80):
        middle = (low + high) / 2
        log_ratio = math.lgamma(1 + 2 / middle) - 2 * math.lgamma(1 + 1 / middle)
        if log_ratio > math.log1p(cv * cv):
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _poisson(rate_rps: float, duration_s: float, rng: numpy.random.Generator) -> Iterator[float]:
    now_s = float(rng.exponential(1 / rate_rps))
    while now_s < duration_s:
        yield now_s
        now_s += float(rng.exponential(1 / rate_rps))


def _prefix_groups(
    wanted: scenario.PrefixGroups, rng: numpy.random.Generator, ids: Iterator[int], size: int
) -> Iterator[request.TraceRequest]:
    prefixes = [next(ids) for _ in range(wanted.groups)]
    cumulated = numpy.cumsum(_zipf(wanted.groups, wanted.skew))
    for number, arrival_s in enumerate(_poisson(wanted.rate_rps, wanted.duration_s, rng), 1):
        group = min(int(numpy.searchsorted(cumulated, rng.random())), wanted.groups - 1)
        tokens = wanted.prefix_tokens + _tokens(rng, wanted.input)
        found = _prompt(prefixes[group], wanted.prefix_tokens, next(ids), tokens, size)
        yield _request(wanted, number, arrival_s, found, tokens, _tokens(rng, wanted.output), size)


def _conversations(
    wanted: scenario.Conversations, rng: numpy.random.Generator, ids: Iterator[int], size: int
) -> Iterator[request.TraceRequest]:
    """Turns of a conversation are prefixes of one growing text, whose blocks have consecutive ids."""
    system = next(ids)
    drawn: list[tuple[float, int, tuple[int, ...], int, int]] = []
    order = itertools.count()
    for begun_s in _poisson(wanted.rate_rps / wanted.turns, wanted.duration_s, rng):
        own = next(ids)
        now_s = begun_s
        tokens = wanted.system_tokens + _tokens(rng, wanted.input)
        for _ in range(int(rng.geometric(1 / wanted.turns))):
            if now_s >= wanted.duration_s:
                break
            output = _tokens(rng, wanted.output)
            drawn.append((now_s, next(order), _prompt(system, wanted.system_tokens, own, tokens, size), tokens, output))
            tokens = min(tokens + output + _tokens(rng, wanted.turn_input), wanted.input.most)
            now_s += _length(rng, wanted.gap_s)
    drawn.sort(key=lambda each: each[:2])
    for number, (arrival_s, _, found, tokens, output) in enumerate(drawn, 1):
        yield _request(wanted, number, arrival_s, found, tokens, output, size)
