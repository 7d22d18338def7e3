"""The operator at the size of a large cluster: a thousand deployments, ten thousand workers on nodes that are played."""
