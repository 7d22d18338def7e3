"""Redis keys and messages, version 1.

Every key starts with `penstock:v1:{<namespace>}:`; the braces keep a namespace in one slot of a Redis Cluster, so that
scripts may touch several of its keys. A change that an older reader cannot take gets a new version and both are
written for one release.

Registry: a hash of records and a sorted set of lease ends (Redis' own clock, ms), with a stream of what changed.
Gateways: one stream of deltas, each a batch of placements and of in-flight load, numbered per source.
"""

from __future__ import annotations

import msgspec

VERSION = 1


class Keys:
    """Names of one namespace's keys."""

    def __init__(self, namespace: str = "default") -> None:
        prefix = f"penstock:v{VERSION}:{{{namespace}}}:"
        self.prefix = prefix
        # Hash: worker id -> WorkerRecord as JSON.
        self.workers = prefix + "workers"
        # Sorted set: worker id -> end of its lease, ms since the epoch by Redis' clock.
        self.worker_leases = prefix + "workers:leases"
        # Counter: fencing numbers of worker registrations.
        self.worker_incarnation = prefix + "workers:incarnation"
        # Stream of registry changes: fields op (put | del | expire), id.
        self.registry_log = prefix + "registry:log"
        # Hash and sorted set of the gateways, as for the workers.
        self.gateways = prefix + "gateways"
        self.gateway_leases = prefix + "gateways:leases"
        # Hash: deployment name -> ModelDeployment as JSON.
        self.deployments = prefix + "deployments"
        # String with expiry: {"holder": ..., "epoch": ...} of the active controller; counter of epochs.
        self.leader = prefix + "controller:leader"
        self.leader_epoch = prefix + "controller:epoch"
        # String: loop state of the controller, JSON, written with its epoch.
        self.controller_state = prefix + "controller:state"
        # Stream of fleet events for people: fields kind, subject, reason, at_s.
        self.events = prefix + "events"
        # Stream of gateway deltas: field d (GatewayDelta as msgpack).
        self.gateway_deltas = prefix + "gateways:deltas"

    def snapshot(self, requester: str) -> str:
        """List to which peers push a snapshot of the index for `requester` (IndexSnapshot as msgpack)."""
        return f"{self.prefix}gateways:snapshot:{requester}"


REGISTRY_LOG_MAXLEN = 10_000
EVENTS_MAXLEN = 10_000
DELTAS_MAXLEN = 4_096


class Placement(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A prompt that was sent to an endpoint: its chain of block hashes, 8 bytes each, little endian."""

    endpoint: str
    hashes: bytes
    tokens: int


class EndpointLoad(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What one gateway has in flight on an endpoint; absolute, so a lost message heals with the next."""

    endpoint: str
    queued_tokens: int
    running: int
    kv_tokens: int


class GatewayDelta(msgspec.Struct, array_like=True, frozen=True):
    """A batch from one gateway. `seq` rises by one in each; a gap means that something was missed."""

    version: int
    source: str
    epoch: int
    seq: int
    placements: list[Placement]
    loads: list[EndpointLoad]
    # Endpoint ids whose cached blocks are gone (engine restart, cache reset).
    cleared: list[str] = []
    # Set by a gateway that asks its peers for a snapshot of the index.
    wants_snapshot: bool = False


class IndexSnapshot(msgspec.Struct, array_like=True, frozen=True):
    """Index of a peer: per endpoint its block hashes, oldest first, as it stood after stream entry `upto`."""

    version: int
    source: str
    upto: str
    endpoints: dict[str, bytes]
    # Per source the (epoch, seq) that the snapshot includes.
    seqs: dict[str, tuple[int, int]]
