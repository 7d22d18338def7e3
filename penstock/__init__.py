"""Penstock's shared leaf: types and wire formats (api), process plumbing (runtime), performance models (perf)."""

__version__ = "0.1.0"
