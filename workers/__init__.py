"""What runs beside or around an engine: the engine model, simulated and real workers, and metric adapters."""
