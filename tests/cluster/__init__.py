"""A real Kubernetes control plane for tests, without containers or a cloud: etcd and the API server.

`python -m tests.cluster build` gets the two programs, `python -m tests.cluster up` runs them until Ctrl-C.
"""
