"""Compiles the gateway's hot path with mypyc into build/compiled; does nothing where it is there or no compiler is.

The sources stay plain Python and run as such without this; docs/performance.md says what it gains.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tempfile

from penstock.runtime import compiled

_BUILD = """
import sys
from mypyc.build import mypycify
from setuptools import setup
sys.argv = ["setup.py", "--quiet", "build_ext", "--inplace"]
setup(name="hotpath", packages=[], ext_modules=mypycify(["--config-file", "mypy.ini", *{modules!r}], opt_level="2"))
"""


def _lacking() -> str:
    """What is missing for a compilation, or nothing."""
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        return f"no C compiler ({compiler})"
    if not (pathlib.Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        return "no Python headers"
    return ""


def build(target: pathlib.Path) -> None:
    """Makes `target` from the sources. Raises CalledProcessError with the compiler's last words in `stderr`."""
    source = compiled.root()
    target.parent.mkdir(parents=True, exist_ok=True)
    work = pathlib.Path(tempfile.mkdtemp(dir=target.parent, prefix="making-"))
    try:
        package = compiled.PACKAGE
        shutil.copytree(source / package, work / package, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        (work / "mypy.ini").write_text("[mypy]\nplugins = pydantic.mypy\nignore_missing_imports = True\n")
        (work / "build_hotpath.py").write_text(_BUILD.format(modules=list(compiled.MODULES)))
        environment = {**os.environ, "MYPYPATH": f"{work}:{source}", "PYTHONPATH": str(work)}
        subprocess.run(
            [sys.executable, "build_hotpath.py"], cwd=work, env=environment, check=True, capture_output=True, text=True
        )
        shutil.rmtree(work / "build", ignore_errors=True)
        (work / "complete").touch()
        # A folder of `mkdtemp` is its maker's alone; in an image another user runs what it holds.
        work.chmod(0o755)
        for old in target.parent.iterdir():
            if old != work:
                shutil.rmtree(old, ignore_errors=True)
        work.rename(target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def main() -> int:
    """Entry point: 0 also where the plain Python will run, because it is complete without; not so with `--strict`."""
    target = compiled.root() / "build" / "compiled" / compiled.digest(compiled.root())
    if (target / "complete").exists():
        return 0
    lacking = _lacking()
    if lacking:
        print(f"hot path: not compiled, {lacking}; the plain Python runs instead", file=sys.stderr)
        return 1 if "--strict" in sys.argv else 0
    try:
        build(target)
    except subprocess.CalledProcessError as exc:
        last = "\n".join((exc.stderr or exc.stdout or "").strip().splitlines()[-5:])
        print(f"hot path: not compiled, the plain Python runs instead:\n{last}", file=sys.stderr)
        return 1 if "--strict" in sys.argv else 0
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
