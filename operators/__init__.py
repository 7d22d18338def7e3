"""Kubernetes reconcilers for the custom resources.

Nothing of it is built yet; docs/architecture.md says what belongs here.
"""
