"""Nodes that are real: containerd, runc and kubelet in namespaces of their own, which leave nothing on the machine.

They need root, Linux and some Debian packages (`make cluster-node` installs them); `machine.why_not` says what is missing.
"""
