"""Kubernetes reconcilers for the custom resources: look at what is there, decide by a pure function, act, say.

docs/kubernetes.md says what there is and what there is not yet.
"""
