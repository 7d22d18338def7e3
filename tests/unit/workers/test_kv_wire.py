"""KV events on the wire: both encodings, and a real engine's."""

import pathlib

import msgspec
import pytest

from workers.adapters import kv_wire

RECORDED = pathlib.Path(__file__).parents[2] / "data" / "vllm-0.32.0-kv-events.bin"


def encode(*events: object) -> bytes:
    """A batch of these events."""
    return msgspec.msgpack.encode([1.5, list(events), 3])


def test_maps_and_arrays_in_one_batch() -> None:
    """Both encodings give the same events, whatever trailing fields are left out or unknown."""
    batch = kv_wire.decode(
        9,
        encode(
            {"type": "BlockStored", "block_hashes": [b"a", 2], "parent_block_hash": 1, "token_ids": [5, 6],
             "block_size": 1, "lora_name": "l", "medium": "CPU", "locality": "new field"},
            ["BlockStored", [b"a", 2], 1, [5, 6], 1, None, "CPU", "l", None, 0, "newer"],
            ["BlockStored", [7], None, [5], 1],
            ["BlockRemoved", [7]],
            {"type": "BlockRemoved", "block_hashes": [7], "medium": None},
            ["AllBlocksCleared"],
            {"type": "FromTheFuture"},
        ),
    )  # fmt: skip
    assert (batch.sequence, batch.timestamp_s, batch.dp_rank, batch.unknown) == (9, 1.5, 3, 1)
    stored = kv_wire.Stored((b"a", 2), 1, (5, 6), 1, "l", "CPU")
    removed = kv_wire.Removed((7,))
    assert batch.events == (
        *(stored, stored, kv_wire.Stored((7,), None, (5,), 1)),
        *(removed, removed, kv_wire.Cleared()),
    )


def test_a_real_engines_events() -> None:
    """What vLLM 0.32 sent decodes: chained blocks of 32 tokens."""
    data, batches = RECORDED.read_bytes(), []
    while data:
        size = int.from_bytes(data[:4], "big")
        batches.append(kv_wire.decode(len(batches), data[4 : 4 + size]))
        data = data[4 + size :]
    events = [event for batch in batches for event in batch.events]
    assert events and all(isinstance(event, kv_wire.Stored) for event in events)
    for event in events:
        assert isinstance(event, kv_wire.Stored)
        assert event.block_size == 32 and len(event.token_ids) == 32 * len(event.hashes)


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xc1", encode("text"), encode({"type": "BlockStored"}), encode(["BlockRemoved", [1.5]])],
)
def test_what_is_not_events_is_an_error(payload: bytes) -> None:
    """Garbage names the batch and does not pass as an empty one."""
    with pytest.raises(kv_wire.BadEvents, match="batch 4"):
        kv_wire.decode(4, payload)
