"""Where model files come from: hubs and object stores, over the standard library's HTTPS."""
