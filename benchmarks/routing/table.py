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
