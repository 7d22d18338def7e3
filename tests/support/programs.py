"""The programs of a cluster, for tests that need some of them."""

from __future__ import annotations

import os

import pytest

from tests.cluster import binaries


def needed(*names: str) -> binaries.Binaries:
    """These among others. Skips the test, with the reason and the command that mends it, where one is not there."""
    try:
        found = binaries.find(os.environ)
        found.need(*names)
    except binaries.Unavailable as exc:
        pytest.skip(str(exc))
    return found
