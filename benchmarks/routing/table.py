"""The comparison as text, and where the default stands in it."""

from __future__ import annotations

from collections.abc import Sequence

import click

from benchmarks.routing import play
from router.policy import profiles
from simulator import compare

_COLUMNS = (
    ("ttft_mean_ms", "TTFT mean", 0), ("ttft_p95_ms", "TTFT p95", 0), ("itl_p95_ms", "ITL p95", 1),
    ("tpot_p95_ms", "TPOT p95", 1), ("e2e_mean_ms", "E2E mean", 0), ("reuse", "reuse", 3), ("good", "good", 4),
)  # fmt: skip
# Figures of which less is better, and those of which more is.
_LESS = ("ttft_mean_ms", "ttft_p95_ms")
_MORE = ("good",)


def values(runs: Sequence[play.Figures], name: str) -> list[float]:
    """One figure of all seeds."""
    return [getattr(each, name) for each in runs]


def show(workload: str, rows: dict[str, list[play.Figures]]) -> None:
    """One workload: a row for each policy, the best mean TTFT first."""
    order = sorted(rows, key=lambda policy: compare.interval(values(rows[policy], "ttft_mean_ms")).mean)
    width = max(len(policy) for policy in rows)
    click.echo(f"\n{workload} (ms; mean and half of its 95 % interval over {len(rows[order[0]])} seeds)")
    click.echo(f"{'':{width}}  " + "".join(f"{title:>18}" for _, title, _ in _COLUMNS))
    for policy in order:
        cells = []
        for name, _, digits in _COLUMNS:
            found = compare.interval(values(rows[policy], name))
            half = "" if found.half is None else f" ±{found.half:,.{digits}f}"
            cells.append(f"{found.mean:,.{digits}f}{half}".rjust(18))
        click.echo(f"{policy:{width}}  " + "".join(cells))


def behind(rows: dict[str, list[play.Figures]], name: str) -> tuple[str, compare.Interval, bool]:
    """The best other policy by a figure, the difference of the default to it seed by seed, and whether that is a real lag."""
    sign = -1.0 if name in _MORE else 1.0
    ours = values(rows[profiles.DEFAULT], name)
    others = {policy: values(runs, name) for policy, runs in rows.items() if policy != profiles.DEFAULT}
    best = min(others, key=lambda policy: sign * compare.interval(others[policy]).mean)
    difference = compare.interval([sign * (a - b) for a, b in zip(ours, others[best], strict=True)])
    return best, difference, difference.mean > 0 and difference.mean - (difference.half or 0.0) > 0


def verdict(found: dict[str, dict[str, list[play.Figures]]]) -> None:
    """For each workload, where the default is neither first nor within the interval of the first; and its lead."""
    click.echo("\nthe default against the best other policy (mean TTFT: ratio; * behind beyond the interval)")
    for workload, rows in found.items():
        if len(rows) < 2 or profiles.DEFAULT not in rows:
            continue
        ours = compare.interval(values(rows[profiles.DEFAULT], "ttft_mean_ms")).mean
        best, _, _ = behind(rows, "ttft_mean_ms")
        ratio = ours / compare.interval(values(rows[best], "ttft_mean_ms")).mean
        late = [f"{name} (behind {behind(rows, name)[0]})" for name in (*_LESS, *_MORE) if behind(rows, name)[2]]
        click.echo(f"{workload:28} {ratio:.3f} of {best}" + (f"   * {', '.join(late)}" if late else ""))


# On the conversation with 8 workers of 2,000 blocks.
_TARGETED = "conversation-8x2000"
_LEADS = {"4x": 0.85, "5x": 0.85}
_LEAST_REUSE = 0.25
_MOST_ITL = 1.05
_ALIKE = 2.0


def missed(found: dict[str, dict[str, list[play.Figures]]]) -> list[str]:
    """What the default has to reach against the policies that were played with it, and has not: each in words.

    On every workload it is first or within the interval of the first, by mean and p95 of TTFT and by goodput. On the
    conversation with 8 x 2,000 blocks its mean TTFT is below every other's, and by 15 % at 4x and 5x; p95 of ITL is at most
    1.05 times the lowest of those whose p95 of TTFT is within twice its own; reuse at 1x is 0.25.
    """
    out = []
    for workload, rows in found.items():
        if len(rows) < 2 or profiles.DEFAULT not in rows:
            continue
        for name in (*_LESS, *_MORE):
            best, difference, late = behind(rows, name)
            if late:
                out.append(f"{workload}: {name} is {abs(difference.mean):.4g} behind {best}")
        kind, _, speed = workload.partition(" ")
        if kind == _TARGETED:
            out += [f"{workload}: {each}" for each in _on_the_conversation(rows, speed)]
    return out


def _on_the_conversation(rows: dict[str, list[play.Figures]], speed: str) -> list[str]:
    means = {
        name: {policy: compare.interval(values(runs, name)).mean for policy, runs in rows.items()}
        for name in ("ttft_mean_ms", "ttft_p95_ms", "itl_p95_ms", "reuse")
    }
    ours = {name: each[profiles.DEFAULT] for name, each in means.items()}
    out = []
    ratio = ours["ttft_mean_ms"] / min(v for policy, v in means["ttft_mean_ms"].items() if policy != profiles.DEFAULT)
    most = _LEADS.get(speed, 1.0)
    if ratio > most:
        out.append(f"mean TTFT is {ratio:.3f} of the best other's, {most} is asked")
    alike = [policy for policy, p95 in means["ttft_p95_ms"].items() if p95 <= _ALIKE * ours["ttft_p95_ms"]]
    gaps = ours["itl_p95_ms"] / min(means["itl_p95_ms"][policy] for policy in alike)
    if gaps > _MOST_ITL:
        out.append(f"p95 of ITL is {gaps:.3f} of the lowest, {_MOST_ITL} is asked")
    if speed == "1x" and ours["reuse"] < _LEAST_REUSE:
        out.append(f"reuse is {ours['reuse']:.3f}, {_LEAST_REUSE} is asked")
    return out
