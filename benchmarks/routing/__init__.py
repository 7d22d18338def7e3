"""Routing policies compared on the same arrivals, in the simulator."""
