"""Generates penstock/api/proto from its .proto files; `--check` fails where what is committed differs.

Run from the repository's root with the development environment.
"""

from __future__ import annotations

import pathlib
import sys
import tempfile

import grpc_tools
from grpc_tools import protoc

PROTO = pathlib.Path("penstock/api/proto")
PATTERNS = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py")


def generate(out: pathlib.Path) -> None:
    """Writes the modules of every .proto file below `out`, at the path that they are imported by."""
    include = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    sources = [str(path) for path in sorted(PROTO.glob("*.proto"))]
    args = ["protoc", "-I.", f"-I{include}", f"--python_out={out}", f"--pyi_out={out}", f"--grpc_python_out={out}"]
    if protoc.main([*args, *sources]) != 0:
        raise SystemExit("protoc failed")


def main() -> int:
    """Entry point: 0 where the committed files are up to date or were written."""
    if "--check" not in sys.argv:
        generate(pathlib.Path())
        return 0
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder)
        generate(out)
        stale = [
            str(path.relative_to(out))
            for pattern in PATTERNS
            for path in sorted((out / PROTO).glob(pattern))
            if not pathlib.Path(path.relative_to(out)).exists()
            or pathlib.Path(path.relative_to(out)).read_bytes() != path.read_bytes()
        ]
    for path in stale:
        print(f"{path} differs from its .proto: run `make generate`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
