"""Decisions of the operators: pure functions of what is wanted, what is there and the time."""
