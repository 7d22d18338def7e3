"""Power capper: budgets, telemetry, actuators.

Nothing of it is built yet; docs/architecture.md says what belongs here.
"""
