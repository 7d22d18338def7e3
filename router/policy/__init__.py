"""Routing decisions as pure functions: no clock, no loop, no network, no logger."""
