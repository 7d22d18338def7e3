"""What every process needs around its work: clock, settings, logs, lifecycle, Redis and gRPC plumbing."""
