"""The engine model: continuous batching over a paged KV cache, without a clock, a socket or a random source."""
