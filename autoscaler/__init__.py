"""Forecast, sizing and GPU mix: how many workers, of which kind.

Nothing of it is built yet; docs/architecture.md says what belongs here.
"""
