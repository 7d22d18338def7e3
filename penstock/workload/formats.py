"""The trace formats by name, and the one way to open any of them."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping

from penstock.workload import agent, azure, mooncake, openai_jsonl, options, request, servegen

Reader = Callable[[pathlib.Path, options.ReadOptions, request.RowErrors], Iterator[request.TraceRequest]]

READERS: Mapping[str, Reader] = {
    "mooncake": mooncake.read,
    "azure": azure.read,
    "servegen": servegen.read,
    "agent": agent.read,
    "openai-jsonl": openai_jsonl.read,
}


def read(
    path: pathlib.Path, name: str, opts: options.ReadOptions, errors: request.RowErrors
) -> Iterator[request.TraceRequest]:
    """Requests of the trace at `path` in order of arrival, the first one at 0 s.

    Bad rows go to `errors` and are left out. Raises `TraceError` when the format is not known, the trace
    cannot be read or holds no request that can be used, or (strict `errors`) at the first bad row.
    """
    reader = READERS.get(name)
    if reader is None:
        raise request.TraceError(f"trace format {name!r} is not known; known are {', '.join(READERS)}")
    first_s: float | None = None
    for each in _cut(reader(path, opts, errors), name, opts):
        if first_s is None:
            first_s = each.arrival_s
        yield dataclasses.replace(each, arrival_s=each.arrival_s - first_s)
    if first_s is None:
        raise request.TraceError(f"{path}: no request of format {name} in it ({errors.count} bad rows)")


def _cut(found: Iterator[request.TraceRequest], name: str, opts: options.ReadOptions) -> Iterator[request.TraceRequest]:
    """Only what arrives in [start_s, start_s + duration_s) of the trace's time."""
    origin_s: float | None = 0.0 if name == "servegen" else None
    for each in found:
        if origin_s is None:
            origin_s = each.arrival_s
        at_s = each.arrival_s - origin_s
        if opts.duration_s is not None and at_s >= opts.start_s + opts.duration_s:
            return
        if at_s >= opts.start_s:
            yield each
