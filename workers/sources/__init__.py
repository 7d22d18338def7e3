"""Where model files come from: hubs and object stores, over HTTPS."""
