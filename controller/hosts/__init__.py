"""Where workers run: one port, with Ray Serve, plain processes, and a twin in memory behind it."""
