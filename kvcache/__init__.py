"""The distributed KV-cache tier: node, directory, client.

Nothing of it is built yet; docs/architecture.md says what belongs here.
"""
