"""Who is there: workers and gateways, each under a lease, in Redis or (for one process and tests) in memory."""

from penstock.runtime.registry.memory import MemoryRegistry
from penstock.runtime.registry.port import Change, Registry, Snapshot
from penstock.runtime.registry.redis import RedisRegistry, entries
from penstock.runtime.registry.watch import RegistryWatcher

__all__ = ["Change", "MemoryRegistry", "RedisRegistry", "Registry", "RegistryWatcher", "Snapshot", "entries"]
