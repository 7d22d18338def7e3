"""KV cache events as engines send them: maps (vLLM from 0.24) and tagged arrays (vLLM before it, SGLang).

Both may come in one batch. A batch is msgpack [timestamp, [event, ...], data-parallel rank]. Fields that are not
known are passed over; hashes are bytes or integers and are kept as they are.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

BlockHash = bytes | int


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
    """Blocks became findable, one after the other behind `parent`."""

    hashes: tuple[BlockHash, ...]
    parent: BlockHash | None
    token_ids: tuple[int, ...]
    """Of all the blocks in order; empty for tiers that do not tell."""
    block_size: int
    lora_name: str | None = None
    medium: str = "GPU"
    group: int = 0
    """KV cache group: engines with several kinds of layers report each."""


@dataclasses.dataclass(frozen=True, slots=True)
class Removed:
    """Blocks were evicted."""

    hashes: tuple[BlockHash, ...]
    medium: str = "GPU"
    group: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Cleared:
    """Every block is gone."""


Event = Stored | Removed | Cleared


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """What one message brings."""

    sequence: int
    timestamp_s: float
    events: tuple[Event, ...]
    dp_rank: int | None
    unknown: int = 0
    """Events of kinds not known here, passed over."""


class BadEvents(ValueError):
    """A payload that is not a batch of KV events."""


_STORED = ("block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium", "lora_name")
_FIELDS: dict[str, tuple[str, ...]] = {
    "BlockStored": (*_STORED, "extra_keys", "group_idx"),
    "BlockRemoved": ("block_hashes", "medium", "group_idx"),
    "AllBlocksCleared": (),
}


def decode(sequence: int, payload: bytes) -> Batch:
    """Decode one payload. Raises BadEvents."""
    try:
        batch = msgspec.msgpack.decode(payload)
        timestamp_s, raw, *rest = batch
        fields = [_fields(event) for event in raw]
        events = [_event(event) for event in fields if event is not None]
        rank = rest[0] if rest else None
        return Batch(sequence, float(timestamp_s), tuple(events), rank, len(fields) - len(events))
    except (msgspec.DecodeError, KeyError, TypeError, ValueError) as exc:
        raise BadEvents(f"batch {sequence}: not KV events: {exc!r}") from exc


def _fields(event: Any) -> Mapping[str, Any] | None:
    """The event as a map with its `type`; None for a kind not known here."""
    if isinstance(event, Mapping):
        return event if event["type"] in _FIELDS else None
    if not isinstance(event, Sequence) or isinstance(event, (str, bytes)) or not event:
        raise ValueError(f"an event is a {type(event).__name__}")
    names = _FIELDS.get(event[0])
    return None if names is None else {"type": event[0], **dict(zip(names, event[1:], strict=False))}


def _event(fields: Mapping[str, Any]) -> Event:
    if fields["type"] == "AllBlocksCleared":
        return Cleared()
    hashes = tuple(fields["block_hashes"])
    if not all(isinstance(value, (int, bytes)) for value in hashes):
        raise ValueError("a block hash is neither bytes nor an integer")
    medium, group = fields.get("medium") or "GPU", fields.get("group_idx") or 0
    if fields["type"] == "BlockRemoved":
        return Removed(hashes, medium, group)
    return Stored(
        hashes,
        fields.get("parent_block_hash"),
        tuple(fields["token_ids"]),
        int(fields["block_size"]),
        fields.get("lora_name"),
        medium,
        group,
    )
