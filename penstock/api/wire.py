"""Redis keys and messages, version 1.

Every key but one starts with `penstock:v1:{<namespace>}:`; the braces keep a namespace in one slot of a Redis Cluster, so that
scripts may touch several of its keys. A change that an older reader cannot take gets a new version and both are
written for one release.

Registry: a hash of records and a sorted set of lease ends (Redis' own clock, ms), with a stream of what changed.
Gateways: one stream of deltas, each a batch of placements and of in-flight load, numbered per source.
"""

from __future__ import annotations

import msgspec

VERSION = 1


def told(operators: str) -> str:
    """Set: `<namespace>/<name>` of each deployment that these operators have put into its fleet's hash, of all fleets."""
    return f"penstock:v{VERSION}:told:{operators}"


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
        # Stream of registry changes: fields op (put | del | expire), id, and with a put the record.
        self.registry_log = prefix + "registry:log"
        # String: when leases were last looked through, ms by Redis' clock.
        self.registry_swept = prefix + "registry:swept"
        # Hash and sorted set of the gateways, as for the workers.
        self.gateways = prefix + "gateways"
        self.gateway_leases = prefix + "gateways:leases"
        # Hash and sorted set of the nodes whose agents measure, as for the workers.
        self.nodes = prefix + "nodes"
        self.node_leases = prefix + "nodes:leases"
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
        # Stream of what engines' KV events come to: field d (KvReport as msgpack).
        self.kv_reports = prefix + "workers:kv"

    def snapshot(self, requester: str) -> str:
        """List to which peers push a snapshot of the index for `requester` (IndexPiece as msgpack)."""
        return f"{self.prefix}gateways:snapshot:{requester}"


REGISTRY_LOG_MAXLEN = 10_000
EVENTS_MAXLEN = 10_000
DELTAS_MAXLEN = 4_096
KV_REPORTS_MAXLEN = 8_192


class Placement(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A prompt that was sent to an endpoint: its chain of block hashes, 8 bytes each, little endian, first block first."""

    endpoint: str
    hashes: bytes
    # Predicted time of its prefill, ms.
    prefill_ms: float = 0.0


class EndpointLoad(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What one gateway has in flight on an endpoint; absolute, so a lost message heals with the next."""

    endpoint: str
    queued_tokens: int
    running: int
    kv_tokens: int
    # Of `running`, those whose prompt is not prefilled yet.
    waiting: int = 0
    # Predicted time until those are prefilled, ms.
    queued_ms: float = 0.0
    # Of their KV, what they did not find cached.
    fresh_tokens: int = 0
    # What they have generated, by the time since each began to.
    generated_tokens: int = 0


class GatewayDelta(msgspec.Struct, array_like=True, frozen=True):
    """A batch from one gateway. `seq` rises by one in each; a gap means that something was missed.

    Endpoints are named `worker id/incarnation`, so that nothing said of a former incarnation is taken for the present one.
    """

    version: int
    source: str
    # Rises with each start of the source; a new epoch starts its `seq` anew.
    epoch: int
    seq: int
    placements: list[Placement]
    loads: list[EndpointLoad]
    # Whether `loads` names every endpoint with something in flight; otherwise only what changed.
    loads_complete: bool = False
    # The gateway that is asked for a snapshot of its index; empty for none.
    wants_snapshot_of: str = ""


class IndexPiece(msgspec.Struct, array_like=True, frozen=True):
    """A piece of a gateway's index: one endpoint's block hashes, least recently used first. `last` ends the snapshot."""

    version: int
    source: str
    endpoint: str
    hashes: bytes
    last: bool = False


class KvReport(msgspec.Struct, array_like=True, frozen=True):
    """What a worker's KV events came to since its last report. Sent when something changed, at most twice a second."""

    version: int
    endpoint: str
    seq: int
    # Blocks that the engine has cached now, and how many tokens each holds.
    resident_blocks: int
    block_tokens: int
    # Blocks that were evicted since the last report.
    evicted_blocks: int
    # The cache was emptied since the last report.
    cleared: bool
    # Events were missed and could not be had again: the numbers are not exact.
    approximate: bool


def endpoint_key(worker_id: str, incarnation: int) -> str:
    """Name of an endpoint in messages between gateways."""
    return f"{worker_id}/{incarnation}"
