"""Discrete-event simulator that runs the production policies and the engine model on traces.

Nothing of it is built yet; docs/architecture.md says what belongs here.
"""
