"""From a scenario to its figures."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator

from penstock import perf
from penstock.api import types as api
from penstock.workload import formats, request
from router.policy import profiles
from simulator import cluster, exchange, faults, fleet, gateways, generate, requests, results, scenario

# Time bins of the report, s.
BIN_S = 10.0


def run(
    told: scenario.Scenario,
    found: Iterable[request.TraceRequest] | None = None,
    profile: profiles.Profile | None = None,
) -> results.Result:
    """Play a scenario. `found` replaces its workload, read before; `profile` the gateways' policy, as in an experiment.

    Raises scenario.ScenarioError, and `request.TraceError` where its trace cannot be read.
    """
    played = prepare(told, found, profile)
    played.run()
    return results.summarize(told, played.tally, list(played.workers.values()), BIN_S)


def prepare(
    told: scenario.Scenario,
    found: Iterable[request.TraceRequest] | None = None,
    profile: profiles.Profile | None = None,
) -> cluster.Cluster:
    """The fleet of a scenario with its workload and its faults before it, not begun yet. As `run`."""
    if found is None:
        found = workload(told)
    found = iter(found)
    head = next(found, None)
    if head is None:
        raise scenario.ScenarioError("the workload has no request")
    engines = [perf.load_profile(pool.profile or model.profile) for model in told.fleet.models for pool in model.pools]
    block_size = told.fleet.block_size or head.block_tokens or engines[0].block_size
    try:
        cut, asked = requests.cut(itertools.chain((head,), found), block_size)
    except requests.BlockSizeError as exc:
        raise scenario.ScenarioError(str(exc)) from exc
    clock = gateways.Clock()
    by_model = {
        gateways.pool_name(each.name, pool.role): profiles.by_name(each.policy)
        for each in told.fleet.models
        for pool in each.pools
        if each.policy
    }
    doors = [
        gateways.Gateway(
            f"gw-{number}",
            clock,
            profile or profiles.by_name(told.gateways.policy),
            cut,
            told.gateways.index_budget_bytes,
            by_model,
            told.gateways.kv_share,
        )
        for number in range(told.gateways.count)
    ]
    played = cluster.Cluster(
        clock,
        _assigned(asked, told),
        doors,
        [each.name for each in told.fleet.models],
        len(told.classes),
        priorities=[each.priority for each in told.classes],
        speed=told.speed,
        seed=told.seed,
        latency_s=told.fleet.network_ms / 1000,
        bin_s=BIN_S,
    )
    stream = _connect(played, told)
    split = [each.name for each in told.fleet.models if each.split]
    halves = None
    if split:
        halves = played.divide(split, told.fleet.kv_transfer_ms / 1000, told.fleet.first_token == api.ROLE_PREFILL)
    for each in fleet.workers(told, block_size):
        played.workers[each.id] = each
        if halves is not None:
            halves.add(each)
        for door in doors:
            door.upsert(each.record)
    faults.Faults(played, stream, told)
    return played


def _connect(played: cluster.Cluster, told: scenario.Scenario) -> exchange.Stream:
    """Gives the gateways and the workers their stream."""
    settings, doors = told.gateways, played.gateways
    links = [
        exchange.Link(door, played.clock, settings.exchange_interval_s, settings.peer_timeout_s, shared=len(doors) > 1)
        for door in doors
    ]
    stream = exchange.Stream(
        played.at,
        played.clock,
        links,
        interval_s=settings.exchange_interval_s,
        delay_s=settings.exchange_delay_s,
        draw=random.Random(f"{told.seed}/stream").random,
    )
    if len(doors) > 1:
        played.on_booked = stream.booked
    if told.fleet.kv_events:
        played.on_cache = stream.changed
    return stream


def workload(told: scenario.Scenario) -> Iterator[request.TraceRequest]:
    """The requests of a scenario's workload, in order of arrival."""
    if told.generators:
        return generate.requests_of(told)
    if told.trace is None:
        raise scenario.ScenarioError("the scenario names no workload: give a trace or generators")
    reading = told.trace.reading.model_copy(update={"seed": told.seed})
    found = formats.read(told.trace.path, told.trace.format, reading, request.RowErrors())
    return itertools.islice(found, told.trace.limit)


def _assigned(asked: Iterator[requests.Request], told: scenario.Scenario) -> Iterator[requests.Request]:
    """Requests with their class and model, drawn by the shares."""
    if len(told.classes) == 1 and len(told.fleet.models) == 1:
        return asked
    return _drawn(asked, told)


def _drawn(asked: Iterator[requests.Request], told: scenario.Scenario) -> Iterator[requests.Request]:
    rng = random.Random(f"{told.seed}/shares")
    classes = [each.share for each in told.classes]
    models = [each.share for each in told.fleet.models]
    group_of = {each.name: at for at, each in enumerate(told.classes)}
    model_of = {each.name: at for at, each in enumerate(told.fleet.models)}
    fixed = {each.name: (each.slo_class, each.model) for each in told.generators}
    for each in asked:
        # Drawn whether or not they are used, so that one generator's choice does not shift the others' draws.
        each.group = rng.choices(range(len(classes)), classes)[0]
        each.model = rng.choices(range(len(models)), models)[0]
        slo_class, model = fixed.get(each.source, (None, None))
        if slo_class is not None:
            each.group = group_of[slo_class]
        if model is not None:
            each.model = model_of[model]
        yield each
