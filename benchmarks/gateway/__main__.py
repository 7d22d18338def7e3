"""`python -m benchmarks.gateway`: the gateway's CPU time per request beside sglang-router's, in one run."""

import contextlib
import dataclasses
import pathlib
import signal
import sys
import tempfile
from typing import IO, Any

import click

from benchmarks.gateway import processes, rounds
from controller.cli import output

BIN = pathlib.Path(sys.executable).parent
PENSTOCK = f"{BIN / 'penstock'} gateway {{flags}} --port {{port}} --admin-port {{port2}} --policy default"
PEER_PYTHON = processes.ROOT / ".venv-bench" / "bin" / "python"
PEER = (
    f"{PEER_PYTHON} -m sglang_router.launch_router --host 127.0.0.1 --port {{port}} --worker-urls {{urls}} "
    "--policy cache_aware --prometheus-port {port2} --log-level error"
)
FLOOR = "{python} -m benchmarks.gateway.passthrough --port {port} {flags}"
OURS, THEIRS = "penstock", "sglang-router"


@click.command()
@click.option("--rounds", "count", default=5, show_default=True, type=click.IntRange(1))
@click.option(
    "--scale", default=1.0, show_default=True, type=click.FloatRange(0.01), help="Requests per round, times this."
)
@click.option("--penstock", "ours", default=PENSTOCK, show_default=True, help="Command of the gateway.")
@click.option("--peer", "theirs", default=PEER, show_default=True, help="Command of the proxy to compare with.")
@click.option("--also", multiple=True, metavar="NAME=COMMAND", help="Another proxy to show, such as Envoy.")
@click.option("--floor", is_flag=True, help="Also show a proxy that only copies bytes.")
@click.option("--endpoints/--no-endpoints", default=True, show_default=True, help="Compare 1,000 endpoints with 8.")
@click.option("--shapes/--no-shapes", default=True, show_default=True, help="Compare the shapes of load.")
@click.option("--json", "json_to", metavar="FILE|-", help="Write the figures as JSON.")
@click.pass_context
def main(context: click.Context, /, **given: Any) -> None:
    """Compare CPU time per request. Exit status: 0 every target met, 1 one missed, 2 the run failed.

    In commands {port} and {port2} are free ports, {urls} the endpoints, {flags} each as --endpoint URL.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        found = _run(given)
    except processes.BenchError as exc:
        click.echo(f"benchmarks.gateway: {exc}", err=True)
        context.exit(2)
    if given["json_to"] is not None:
        output.emit_json(found, given["json_to"])
    if given["json_to"] != "-":
        _tables(found)
    judged = [*found["targets"], *([found["endpoints"]] if "endpoints" in found else [])]
    context.exit(0 if all(each["met"] for each in judged) else 1)


def _terminate(number: int, frame: object) -> None:
    """Unwind, so that every process started here is ended."""
    sys.exit(128 + number)


def _tell(words: str) -> None:
    click.echo(words, err=True)


def _scaled(scale: float) -> list[rounds.Shape]:
    return [
        dataclasses.replace(shape, requests=max(shape.at_once, round(shape.requests * scale)))
        for shape in rounds.SHAPES
    ]


def _run(given: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"rounds": given["count"], "shapes": {}, "targets": [], "idle_ms_per_s": {}}
    shapes = _scaled(given["scale"])
    with tempfile.TemporaryFile() as log:
        try:
            with processes.load_generator(log) as load:
                if given["shapes"]:
                    _compare(given, shapes, load, log, found)
                if given["endpoints"]:
                    _endpoints(given, shapes[0], load, log, found)
        except processes.BenchError as exc:
            log.seek(0)
            words = log.read().decode(errors="replace")[-2000:]
            raise processes.BenchError(f"{exc}\n{words}") from exc
    return found


def _compare(
    given: dict[str, Any], shapes: list[rounds.Shape], load: processes.Load, log: IO[bytes], found: dict[str, Any]
) -> None:
    commands = {OURS: given["ours"], THEIRS: given["theirs"]}
    for each in given["also"]:
        name, _, command = each.partition("=")
        commands[name] = command
    if given["floor"]:
        commands["copying bytes"] = FLOOR
    addresses = [f"127.0.0.1:{port}" for port in processes.free_ports(2)]
    with contextlib.ExitStack() as stack:
        for address in addresses:
            stack.enter_context(processes.mock_engines([address], log))
        proxies = [
            stack.enter_context(processes.proxy(name, command, addresses, log)) for name, command in commands.items()
        ]
        cells = rounds.measure(proxies, load, shapes, given["count"], _tell)
        found["idle_ms_per_s"] |= rounds.idle_ms_per_s(proxies)
    found["targets"] = rounds.judge(cells, shapes, OURS, THEIRS)
    found["shapes"] = {shape: {name: cell.figures() for name, cell in row.items()} for shape, row in cells.items()}


def _endpoints(
    given: dict[str, Any], shape: rounds.Shape, load: processes.Load, log: IO[bytes], found: dict[str, Any]
) -> None:
    """The same load on a gateway with 8 endpoints and on one with 1,000, all served by one process of engines."""
    (port,) = processes.free_ports(1)
    addresses = [f"127.1.{i // 250}.{i % 250 + 1}:{port}" for i in range(1000)]
    few, many = "8 endpoints", "1,000 endpoints"
    with contextlib.ExitStack() as stack:
        stack.enter_context(processes.mock_engines(addresses, log))
        proxies = [
            stack.enter_context(processes.proxy(name, given["ours"], used, log))
            for name, used in ((few, addresses[:8]), (many, addresses))
        ]
        cells = rounds.measure(proxies, load, [shape], given["count"], _tell)[shape.name]
        found["idle_ms_per_s"] |= rounds.idle_ms_per_s(proxies)
    found["endpoints"] = rounds.judge_endpoints(cells[few], cells[many])
    found["shapes"][f"{shape.name}, endpoints"] = {name: cell.figures() for name, cell in cells.items()}


def _tables(found: dict[str, Any]) -> None:
    rows = [
        (shape, name, *(each[key] for key in ("cpu_us", "cpu_us_min", "cpu_us_max", "p50_ms", "p99_ms")))
        for shape, row in found["shapes"].items()
        for name, each in row.items()
    ]
    output.table(rows, ("load", "proxy", "CPU us per request", "min", "max", "p50 ms", "p99 ms"))
    judged = [
        (
            each["shape"],
            *(output.text(each[key], 3) for key in ("ratio", "ratio_min", "ratio_max", "most")),
            "met" if each["met"] else "MISSED",
        )
        for each in found["targets"]
    ]
    if "endpoints" in found:
        each = found["endpoints"]
        cells = (f"{each[key]:+.1f} us" for key in ("more_us", "more_us_min", "more_us_max", "most_us"))
        judged.append(("1,000 endpoints over 8", *cells, "met" if each["met"] else "MISSED"))
    output.table(judged, (f"{OURS} over {THEIRS}", "ratio", "min", "max", "target", ""))
    output.table([(name, value) for name, value in found["idle_ms_per_s"].items()], ("idle", "CPU ms per s"))


if __name__ == "__main__":
    main()
