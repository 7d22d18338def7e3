"""The gateway: bytes (dataplane), decisions (policy), prefix state (index), everything else of the port (server)."""
