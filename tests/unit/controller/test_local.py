"""Parts of the local fleet: ports, state files, the supervisor, views, options."""

from __future__ import annotations

import asyncio
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile

import pytest
from click import testing

from controller.cli import main, view
from controller.local import options, ports, state, supervisor
from penstock.api.proto import control_pb2
from penstock.runtime import clock, processes


def test_taken_port_names_its_holder() -> None:
    """A port with a listener cannot be reserved, and the holder is named by pid and by what its interpreter runs."""
    program = (
        "import http.server as s; h = s.HTTPServer(('127.0.0.1', 0), None); "
        "print(h.server_port, flush=True); h.serve_forever()"
    )
    with tempfile.TemporaryDirectory() as folder:
        script = pathlib.Path(folder, "listener.py")
        script.write_text(program)
        with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            assert ports.reserve("127.0.0.1", port) is None
            assert ports.holder(port) == f"pid {process.pid} ({pathlib.Path(sys.executable).name} listener.py)"
            process.kill()


def test_shared_listener_counts_as_taken() -> None:
    """A listener that shares its port (SO_REUSEPORT) has it all the same."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        assert ports.reserve("127.0.0.1", listener.getsockname()[1]) is None


def test_reserved_port_can_be_shared_and_takes_no_connection() -> None:
    """A reserved port is ours to listen on, and the reservation itself is not a listener."""
    kept = ports.reserve("127.0.0.1", 0)
    assert kept is not None
    with kept, socket.socket() as listener:
        port = kept.getsockname()[1]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        socket.create_connection(("127.0.0.1", port), timeout=1).close()


def test_state_of_a_killed_fleet_is_cleared(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    """What a killed fleet left, its folder included, goes with the next start; a living one's stays."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = tmp_path / "penstock-run"
    folder.mkdir()
    entry = state.FleetState(
        pid=2**22 + 1, port=8500, host="127.0.0.1", controller="x:1", run_dir=str(folder), owned=True
    )
    state.write(entry)
    assert state.read(8500) == entry and state.fleets() == []
    state.clear_stale()
    assert not folder.exists() and state.read(8500) is None and not state.folder().exists()
    state.write(entry.model_copy(update={"pid": os.getpid()}))
    state.clear_stale()
    assert len(state.fleets()) == 1


async def test_supervisor_starts_again_what_ended() -> None:
    """A child that is killed is started again, and the line says how it ended."""
    told: list[str] = []
    child = processes.Child("sleeper", [sys.executable, "-S", "-c", "import time; time.sleep(600)"])
    child.spawn()
    first = child.pid
    watch = supervisor.Supervisor(clock.SystemClock(), told.append)
    watch.watch(child)
    await watch.start()
    try:
        child.signal(signal.SIGKILL)
        async with asyncio.timeout(10):
            while child.pid == first or not child.running:
                await asyncio.sleep(0.02)
        assert told == [f"sleeper (pid {first}) was killed by signal 9; starting it again in 0.2 s"]
    finally:
        await watch.stop()
        await child.stop(1.0)


def fleet() -> control_pb2.Fleet:
    """A healthy fleet with one worker of unknown load."""
    return control_pb2.Fleet(
        namespace="default",
        version="1",
        workers=[control_pb2.Worker(id="w-0", state="ready", lease_left_s=2.5, engine="sim", simulated=True)],
        gateways=[control_pb2.Gateway(id="gw-0")],
        deployments=[control_pb2.Deployment(name="tiny", pools=[control_pb2.Pool(role="unified", wanted=1, ready=1)])],
        controller=control_pb2.Controller(id="a", leader=True, epoch=1),
    )


def test_unknown_is_a_question_mark_and_null() -> None:
    """What is unknown is `?` for people and null for machines, never zero."""
    columns, [row] = view.worker_rows(fleet())
    shown = dict(zip(columns, row, strict=True))
    assert (shown["running"], shown["cached"], shown["lease s"]) == ("?", "?", "2.5")
    body = view.as_json(fleet())
    assert body["workers"][0]["running"] is None and body["workers"][0]["lease_left_s"] == 2.5
    assert body["gateways"][0]["lease_left_s"] is None and body["healthy"] is True


@pytest.mark.parametrize("what", ["pool", "gateway", "degraded", "leader"])
def test_every_problem_is_named(what: str) -> None:
    """Each kind of trouble makes the fleet unhealthy, with its reason."""
    sick = fleet()
    if what == "pool":
        sick.deployments[0].pools[0].ready = 0
    elif what == "gateway":
        sick.gateways[0].degraded.append("registry-lost: x")
    elif what == "degraded":
        sick.degraded.append(control_pb2.Degraded(component="redis", reason="x"))
    else:
        sick.controller.id = ""
    assert len(view.problems(sick)) == 1 and view.problems(fleet()) == []


def test_commands_without_a_fleet_exit_3(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    """Where nothing runs, status says how to start and exits with 3."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    got = testing.CliRunner().invoke(main.main, ["status"])
    assert got.exit_code == 3 and "penstock up" in got.output
    got = testing.CliRunner().invoke(main.main, ["status", "--controller", "127.0.0.1:1"])
    assert got.exit_code == 3 and "127.0.0.1:1" in got.output


def test_help_lists_every_command_without_importing_it() -> None:
    """The help names all commands."""
    got = testing.CliRunner().invoke(main.main, ["--help"])
    for name in ("up", "status", "top", "scale", "drain", "explain", "gateway", "chat", "replay", "version"):
        assert f"\n  {name} " in got.output


def test_deployment_name_from_any_model_name() -> None:
    """A model's name with other characters still gives a valid deployment."""
    assert options.UpOptions(model="Meta/Llama_3").deployment().name == "meta-llama-3"
