"""The compiled form of the hot path: the same Python, turned into C extensions by mypyc where a C compiler was at hand.

`tools/compile_hotpath.py` puts a copy of the package `router` with its extensions below `build/compiled/<hash of the sources>`.
A copy whose hash differs from the sources is never used, so an edit takes effect at once, uncompiled.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import sys

# Package that the copy holds, and the modules of it that are compiled.
PACKAGE = "router"
MODULES = (
    "router/index/blocks.py",
    "router/index/prefix.py",
    "router/index/pins.py",
    "router/policy/types.py",
    "router/policy/candidates.py",
    "router/policy/scorers.py",
    "router/policy/pickers.py",
    "router/policy/admission.py",
    "router/policy/pairs.py",
    "router/policy/peers/aibrix.py",
    "router/policy/peers/dynamo.py",
    "router/policy/peers/kubeai.py",
    "router/policy/peers/llm_d.py",
    "router/policy/peers/production_stack.py",
    "router/policy/peers/ray_serve.py",
    "router/policy/peers/rings.py",
    "router/policy/peers/sglang.py",
    "router/policy/peers/vllm_router.py",
    "router/policy/profiles.py",
    "router/dataplane/features.py",
    "router/dataplane/framing.py",
    "router/dataplane/heads.py",
    "router/dataplane/upstream.py",
    "router/dataplane/usage.py",
    "router/dataplane/account.py",
    "router/dataplane/fleet.py",
    "router/dataplane/holding.py",
    "router/dataplane/gateway.py",
    "router/dataplane/exchange.py",
    "router/dataplane/pick.py",
    "router/dataplane/front.py",
)
# Set to 0 to run the plain Python.
SWITCH = "PENSTOCK_COMPILED"


def root() -> pathlib.Path:
    """Folder that holds the package."""
    return pathlib.Path(__file__).resolve().parents[2]


def digest(folder: pathlib.Path) -> str:
    """Hash of every Python source of the package, and of the interpreter that runs it."""
    state = hashlib.sha256(sys.version.encode())
    for path in sorted((folder / PACKAGE).rglob("*.py")):
        state.update(path.relative_to(folder).as_posix().encode())
        state.update(path.read_bytes())
    return state.hexdigest()[:16]


def folder() -> pathlib.Path | None:
    """The copy that fits the sources, or None: not compiled, sources changed since, or switched off."""
    if os.environ.get(SWITCH) == "0":
        return None
    base = root() / "build" / "compiled"
    if not base.is_dir():
        return None
    found = base / digest(root())
    return found if (found / "complete").exists() else None


def activate() -> bool:
    """Makes this process import the compiled package. To be called before the first import of `router`.

    False where there is no copy that fits, or where `router` is imported already.
    """
    found = folder()
    if found is None or "router" in sys.modules:
        return False
    sys.path.insert(0, str(found))
    return True


def in_use() -> bool:
    """Whether this process runs the compiled hot path."""
    module = sys.modules.get("router.dataplane.gateway")
    return module is not None and not str(getattr(module, "__file__", "")).endswith(".py")
