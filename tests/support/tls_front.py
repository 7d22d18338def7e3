"""A server that speaks TLS with clients and plainly with what is behind it: the bundled Redis knows no TLS."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl

from tests.support import certificates


class TlsFront:
    """Listens on loopback; `target` is the port behind it, set before the first client comes."""

    def __init__(self, files: certificates.Files, client_ca: certificates.Authority | None = None) -> None:
        """`client_ca`: clients need a certificate of it."""
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(files.cert, files.key)
        if client_ca is not None:
            self._context.verify_mode = ssl.CERT_REQUIRED
            self._context.load_verify_locations(client_ca.file)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self.target = 0
        self.clients = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begins to listen."""
        self._server = await asyncio.start_server(self._serve, sock=self._socket, ssl=self._context)

    async def stop(self) -> None:
        """Cuts everybody off."""
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.clients += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", self.target)
            try:
                ways = {
                    asyncio.create_task(_pump(reader, behind_writer)),
                    asyncio.create_task(_pump(behind_reader, writer)),
                }
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()
            finally:
                behind_writer.close()
                writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
