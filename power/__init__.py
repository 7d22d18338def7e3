"""Power: the agent of a node measures what its GPUs and CPUs draw."""
