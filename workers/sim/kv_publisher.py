"""KV cache events over ZMQ in vLLM's wire format (vllm/distributed/kv_events.py), with replay.

PUB sends [topic, sequence (8 bytes big-endian), msgpack [timestamp, events, data-parallel rank]]. A replay request
["", sequence] to the ROUTER is answered by ["", topic, sequence, payload] for each buffered batch from there on, and
an end marker with sequence -1.
"""

import asyncio
import collections
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import zmq
from zmq import asyncio as zmq_asyncio

from penstock.runtime import clock
from workers.engine import types

END = (-1).to_bytes(8, "big", signed=True)

TokenIds = Callable[[types.Request, int, int], list[int]]
"""(request, first block, count) -> the token ids in these blocks."""


class KvPublisher:
    """Publishes the events of one engine. Ports of 0 take free ones; `port` and `replay_port` say which."""

    def __init__(
        self,
        host: str,
        port: int,
        replay_port: int | None,
        *,
        topic: str,
        buffer_steps: int,
        block_size: int,
        token_ids: TokenIds,
        time_source: clock.Clock,
    ) -> None:
        self._clock = time_source
        self._topic = topic.encode()
        self._block_size = block_size
        self._token_ids = token_ids
        self._sequence = 0
        self._buffer: collections.deque[tuple[int, bytes]] = collections.deque(maxlen=buffer_steps)
        self._encoder = msgspec.msgpack.Encoder()
        self._context = zmq.Context()
        self._pub = self._context.socket(zmq.PUB)
        self._pub.set_hwm(100_000)
        self.port = _bind(self._pub, host, port)
        self.replay_port: int | None = None
        self._router: zmq_asyncio.Socket | None = None
        self._task: asyncio.Task[None] | None = None
        if replay_port is not None:
            self._replay_context = zmq_asyncio.Context()
            self._router = self._replay_context.socket(zmq.ROUTER)
            self.replay_port = _bind(self._router, host, replay_port)

    def start(self) -> None:
        """Begin to answer replay requests, in the running loop."""
        if self._router is not None:
            self._task = asyncio.get_running_loop().create_task(self._replay(self._router), name="sim-kv-replay")

    async def stop(self) -> None:
        """Close the sockets."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._pub.close(linger=0)
        if self._router is not None:
            self._router.close(linger=0)
            self._replay_context.term()
        self._context.term()

    def publish(self, events: Sequence[types.KvEvent]) -> None:
        """Send one batch. Never blocks: a subscriber that is too slow loses batches, and sees a gap."""
        payload = self._encoder.encode([self._clock.now_s(), [self._wire(event) for event in events], 0])
        self._buffer.append((self._sequence, payload))
        self._pub.send_multipart((self._topic, self._sequence.to_bytes(8, "big"), payload))
        self._sequence += 1

    def _wire(self, event: types.KvEvent) -> dict[str, Any]:
        match event:
            case types.BlocksStored(request, first_block, hashes, parent):
                return {
                    "type": "BlockStored",
                    "block_hashes": list(hashes),
                    "parent_block_hash": parent,
                    "token_ids": self._token_ids(request, first_block, len(hashes)),
                    "block_size": self._block_size,
                    "lora_id": None,
                    "medium": "GPU",
                    "lora_name": request.lora,
                }
            case types.BlocksRemoved(hashes):
                return {"type": "BlockRemoved", "block_hashes": list(hashes), "medium": "GPU"}
            case types.BlocksCleared():
                return {"type": "AllBlocksCleared"}

    async def _replay(self, router: zmq_asyncio.Socket) -> None:
        while True:
            frames = await router.recv_multipart()
            identity, start = frames[0], frames[-1]
            if len(frames) != 3 or len(start) != 8:
                continue
            first = int.from_bytes(start, "big")
            head = [identity, b""]
            for sequence, payload in [item for item in self._buffer if item[0] >= first]:
                await router.send_multipart([*head, self._topic, sequence.to_bytes(8, "big"), payload])
            await router.send_multipart([*head, b"", END, b""])


def _bind(socket: Any, host: str, port: int) -> int:
    if port:
        socket.bind(f"tcp://{host}:{port}")
        return port
    free: int = socket.bind_to_random_port(f"tcp://{host}")
    return free
