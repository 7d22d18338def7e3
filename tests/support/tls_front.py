"""A server that speaks TLS with clients and plainly with what is behind it: the bundled Redis knows no TLS."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Coroutine
from typing import Any

from tests.support import certificates

# First byte of a TLS connection.
_HANDSHAKE = b"\x16"


class TlsFront:
    """Listens on `host`; `target` is the port behind it on loopback, set before the first client comes."""

    def __init__(
        self,
        files: certificates.Files,
        client_ca: certificates.Authority | None = None,
        *,
        plainly: bool = False,
        host: str = "127.0.0.1",
    ) -> None:
        """`client_ca`: clients need a certificate of it. `plainly`: who does not begin with TLS is passed on too."""
        self._plainly = plainly
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(files.cert, files.key)
        if client_ca is not None:
            self._context.verify_mode = ssl.CERT_REQUIRED
            self._context.load_verify_locations(client_ca.file)
        self._socket = socket.create_server((host, 0))
        self._socket.setblocking(False)
        self.port = int(self._socket.getsockname()[1])
        self.target = 0
        self.clients = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begins to serve."""
        self._spawn(self._accept())

    async def stop(self) -> None:
        """Cuts everybody off."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._socket.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(self._socket)
            self._spawn(self._serve(connection))

    async def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            secure = await _first_byte(connection) == _HANDSHAKE
            self.clients += secure
            if not secure and not self._plainly:
                connection.close()
                return
            reader = asyncio.StreamReader()
            protocol = asyncio.StreamReaderProtocol(reader)
            loop = asyncio.get_running_loop()
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, connection, ssl=self._context if secure else None
            )
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", self.target)
            ways = [
                asyncio.create_task(_pump(reader, behind_writer)),
                asyncio.create_task(_pump(behind_reader, writer)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                behind_writer.close()
                writer.close()


async def _first_byte(connection: socket.socket) -> bytes:
    """Looked at, not taken."""
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()
    loop.add_reader(connection, arrived.set)
    try:
        await arrived.wait()
    finally:
        loop.remove_reader(connection)
    return connection.recv(1, socket.MSG_PEEK)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
