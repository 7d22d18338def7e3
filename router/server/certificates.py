"""Takes a renewed certificate into use, for new connections, without a restart: those of cert-manager change often."""

from __future__ import annotations

import asyncio
import pathlib
import ssl
from collections.abc import Callable

from penstock.runtime import clock as clocks
from penstock.runtime import logs, tasks

LOOK_S = 10.0


class Renewal:
    """Looks at the two files now and then. What does not fit together is left, and said once."""

    def __init__(
        self,
        cert: pathlib.Path,
        key: pathlib.Path,
        context: Callable[[], ssl.SSLContext | None],
        clock: clocks.Clock,
        look_s: float = LOOK_S,
    ) -> None:
        """`context` gives that of the running server."""
        self._cert, self._key, self._context, self._clock, self._look_s = cert, key, context, clock, look_s
        self._seen = self._state()
        self._log = logs.get("gateway")
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins to look."""
        self._task = asyncio.create_task(self._run(), name="certificates")

    async def stop(self) -> None:
        """Stops looking."""
        if self._task is not None:
            await tasks.cancel([self._task])

    async def _run(self) -> None:
        while True:
            await self._clock.sleep(self._look_s)
            state = self._state()
            if state != self._seen and state is not None:
                self._seen = state
                self._take()

    def _take(self) -> None:
        context = self._context()
        if context is None:
            return
        try:
            # Tried on a context of its own first: half a pair would spoil the one in use.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._cert, self._key, password="")
            context.load_cert_chain(self._cert, self._key, password="")
        except (OSError, ssl.SSLError) as exc:
            self._log.error("certificate_not_renewed", cert=str(self._cert), reason=str(exc))
        else:
            self._log.info("certificate_renewed", cert=str(self._cert))

    def _state(self) -> tuple[int, int] | None:
        """Changes with the files; None where one is not there, as in the middle of a change."""
        try:
            return self._cert.stat().st_mtime_ns, self._key.stat().st_mtime_ns
        except OSError:
            return None
