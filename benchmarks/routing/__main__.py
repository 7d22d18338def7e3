"""`python -m benchmarks.routing`: every routing policy on the same arrivals, in the simulator."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from concurrent import futures

import click

from benchmarks.routing import knee, play, table, workloads
from router.policy import profiles


@click.command()
@click.option("--traces", type=click.Path(path_type=pathlib.Path), default=lambda: os.environ.get("PENSTOCK_TRACES"),
              help="Folder with the full traces; else PENSTOCK_TRACES, else only what is generated.")  # fmt: skip
@click.option("--workload", "names", multiple=True, type=click.Choice([each.name for each in workloads.WORKLOADS]))
@click.option("--policy", "policies", multiple=True, help="Only these policies, and the default.")
@click.option("--gateways", default=1, show_default=True, type=click.IntRange(1, 64))
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1, 30))
@click.option("--jobs", default=os.cpu_count() or 1, show_default=True, type=click.IntRange(1))
@click.option("--ablate", is_flag=True, help="The default with each of its parts off, instead of other policies.")
@click.option("--knee", "find_knee", is_flag=True, help="The highest speed of the conversation within the targets.")
@click.option("--json", "json_to", type=click.Path(path_type=pathlib.Path), help="Also write the figures as JSON.")
def main(
    traces: pathlib.Path | None, names: tuple[str, ...], policies: tuple[str, ...], gateways: int, seeds: int, jobs: int,
    *, ablate: bool, find_knee: bool, json_to: pathlib.Path | None,
) -> None:  # fmt: skip
    """Play every policy and print mean and 95 % interval over the seeds, the default first.

    Exit status: 1 where the default misses a target, with each.
    """
    if find_knee and traces is None:
        raise click.UsageError("--knee is found on the conversation: give --traces, or PENSTOCK_TRACES")
    others = policies or tuple(name for name in profiles.names() if name != profiles.DEFAULT)
    if ablate:
        others = tuple(play.WITHOUT + part for part in play.PARTS)
    for name in others:
        try:
            play.profile_of(name)
        except profiles.UnknownProfileError as exc:
            raise click.BadParameter(str(exc), param_hint="--policy") from exc
    everyone = (profiles.DEFAULT, *(name for name in others if name != profiles.DEFAULT))
    with futures.ProcessPoolExecutor(jobs) as pool:
        if find_knee:
            knee.show(pool, traces, everyone, seeds)
            return
        found: dict[str, dict[str, list[play.Figures]]] = {}
        for workload, rows in _played(pool, _told(traces, gateways, names), everyone, seeds):
            found[workload] = rows
            table.show(workload, rows)
    table.verdict(found)
    missed = [] if ablate else table.missed(found)
    for each in missed:
        click.echo(f"MISSED {each}")
    if json_to is not None:
        plain = {
            workload: {policy: [dataclasses.asdict(each) for each in runs] for policy, runs in rows.items()}
            for workload, rows in found.items()
        }
        json_to.write_text(json.dumps({"gateways": gateways, "seeds": seeds, "workloads": plain}, indent=1) + "\n")
    if missed:
        raise SystemExit(1)


def _told(
    traces: pathlib.Path | None, gateways: int, names: tuple[str, ...]
) -> list[tuple[str, play.scenario.Scenario]]:
    told: list[tuple[str, play.scenario.Scenario]] = []
    for each in workloads.WORKLOADS:
        if names and each.name not in names:
            continue
        try:
            told += each.scenarios(traces, gateways)
        except FileNotFoundError as exc:
            click.echo(f"left out: {exc}", err=True)
    return told


def _played(
    pool: futures.Executor, told: Sequence[tuple[str, play.scenario.Scenario]], policies: Sequence[str], seeds: int
) -> Iterator[tuple[str, dict[str, list[play.Figures]]]]:
    """Figures of each workload by policy and seed, workload after workload."""
    jobs = [
        play.Job(scenario, workload.split()[0], policy, seed)
        for workload, scenario in told
        for seed in range(seeds)
        for policy in policies
    ]
    done = pool.map(play.play, jobs)
    for workload, _ in told:
        rows: dict[str, list[play.Figures]] = {policy: [] for policy in policies}
        for _ in range(seeds):
            for policy in policies:
                rows[policy].append(next(done))
        yield workload, rows


if __name__ == "__main__":
    main()
