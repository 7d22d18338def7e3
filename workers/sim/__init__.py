"""A simulated worker: the engine model on a real clock, speaking what vLLM speaks, and saying that it is simulated."""
