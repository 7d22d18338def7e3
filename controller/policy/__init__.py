"""Decisions of the controller: pure functions of what is wanted and what is seen."""
