"""Discrete-event simulator of a fleet: the gateways' own policies and account, and the engine model, on a virtual clock.

`simulation.run(scenario)` is the way in; docs/simulator.md says what is modelled and what is not.
"""
