"""A whole fleet on one machine: what `penstock up` starts, watches, and stops."""
