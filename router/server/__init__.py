"""Everything around the relay: settings, the FastAPI routes, the admin port, the fleet's state from Redis."""
