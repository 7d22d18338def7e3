"""Connections to engines: one asyncio protocol per connection, kept idle between requests, newest used first."""

from __future__ import annotations

import asyncio
import ssl
from typing import cast, final

from router.dataplane import framing


class Listener:
    """Who uses a connection: gets its bytes and its end."""

    __slots__ = ()

    def upstream_connected(self, connection: Connection) -> None:
        """The connection that was asked for is there."""
        raise NotImplementedError

    def upstream_unreachable(self, exc: BaseException) -> None:
        """The connection that was asked for could not be made."""
        raise NotImplementedError

    def upstream_data(self, data: bytes) -> None:
        """Bytes from the engine."""
        raise NotImplementedError

    def upstream_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        raise NotImplementedError


@final
class Connection:
    """One connection to an engine. The loop takes anything for a protocol that has these methods."""

    __slots__ = ("idle_since_tick", "listener", "owner", "transport", "used")

    def __init__(self, owner: Connections) -> None:
        self.owner = owner
        self.transport: asyncio.Transport | None = None
        self.listener: Listener | None = None
        # Whether it has already carried a request: only then may its end be an idle close.
        self.used = False
        self.idle_since_tick = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        listener = self.listener
        if listener is not None:
            listener.upstream_data(data)
        elif self.transport is not None:
            # An answer that nobody asked for: the connection is out of step.
            self.transport.abort()

    def eof_received(self) -> bool:
        """Called by the loop: the engine sends no more, so the connection closes."""
        return False

    def pause_writing(self) -> None:
        """Called by the loop: the engine takes a body slowly. It is held whole anyway, so nothing has to wait."""

    def resume_writing(self) -> None:
        """Called by the loop."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self.transport = None
        listener = self.listener
        if listener is not None:
            self.listener = None
            listener.upstream_lost(exc)
        else:
            self.owner.forget(self)

    def release(self) -> None:
        """Back to the idle ones; the answer is complete and nothing follows it."""
        self.listener = None
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        self.used = True
        self.owner.keep(self)

    def abort(self) -> None:
        """Ends the connection at once: an engine that streams sees its client leave."""
        self.listener = None
        if self.transport is not None:
            self.transport.abort()


class Connections:
    """The connections of one endpoint."""

    __slots__ = (
        "_loop",
        "_pending",
        "connect_timeout_s",
        "heads",
        "host",
        "host_header",
        "idle",
        "max_idle",
        "port",
        "tick",
        "tls",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        connect_timeout_s: float = 2.0,
        max_idle: int = 256,
    ) -> None:
        self._loop = loop
        self.host = host
        self.port = port
        self.tls = tls
        self.connect_timeout_s = connect_timeout_s
        self.max_idle = max_idle
        self.heads = framing.HeadMemory()
        self.idle: list[Connection] = []
        self.tick = 0
        name = f"[{host}]" if ":" in host else host
        self.host_header = f"host: {name}:{port}\r\n".encode()
        self._pending: set[asyncio.Task[None]] = set()

    def take(self) -> Connection | None:
        """An idle connection, or None."""
        idle = self.idle
        while idle:
            connection = idle.pop()
            transport = connection.transport
            if transport is not None and not transport.is_closing():
                return connection
        return None

    def open(self, listener: Listener) -> asyncio.Task[None]:
        """Makes a new connection; the listener hears of it, unless the task is cancelled."""
        task = self._loop.create_task(self._open(listener))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)
        return task

    async def _open(self, listener: Listener) -> None:
        connection = Connection(self)
        # Not a subclass, because a class of the compiled form cannot have a base of the interpreter's.
        protocol = cast(asyncio.Protocol, connection)
        try:
            async with asyncio.timeout(self.connect_timeout_s):
                await self._loop.create_connection(lambda: protocol, self.host, self.port, ssl=self.tls)
        except (OSError, TimeoutError) as exc:
            listener.upstream_unreachable(exc)
            return
        if connection.transport is None:
            listener.upstream_unreachable(ConnectionResetError("closed as it was made"))
            return
        listener.upstream_connected(connection)

    def keep(self, connection: Connection) -> None:
        """Takes back a connection that is free."""
        if len(self.idle) >= self.max_idle:
            connection.abort()
            return
        connection.idle_since_tick = self.tick
        self.idle.append(connection)

    def forget(self, connection: Connection) -> None:
        """An idle connection has ended."""
        if connection in self.idle:
            self.idle.remove(connection)

    def expire(self, tick: int, max_idle_ticks: int) -> None:
        """Closes connections that have been idle for too long; called once per tick."""
        self.tick = tick
        idle = self.idle
        if idle and tick - idle[0].idle_since_tick > max_idle_ticks:
            stale = [connection for connection in idle if tick - connection.idle_since_tick > max_idle_ticks]
            self.idle = [connection for connection in idle if tick - connection.idle_since_tick <= max_idle_ticks]
            for connection in stale:
                connection.abort()

    def close_idle(self) -> None:
        """Closes what is idle; what is in use goes on."""
        idle, self.idle = self.idle, []
        for connection in idle:
            connection.abort()
