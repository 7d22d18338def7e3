"""CPU time per request of the gateway, beside that of another proxy."""
