"""What all tests share."""

from __future__ import annotations

import os

from penstock.runtime import compiled

# The gateway's tests run on the plain Python; with this they run on its compiled form (`make test-compiled`).
if os.environ.get("PENSTOCK_TEST_COMPILED") == "1" and not compiled.activate():
    raise SystemExit(
        "PENSTOCK_TEST_COMPILED=1: no compiled hot path fits the sources: run tools/compile_hotpath.py --strict"
    )
