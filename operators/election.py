"""One operator leads: a Lease of coordination.k8s.io, taken and renewed by its resourceVersion.

As in client-go, another one's Lease is judged by how long it has stood unchanged before this process' own eyes, so clocks
need not agree. A leader counts its time from before each renewal was sent and stops acting a fifth of the duration before
another may take over.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable
from typing import Protocol

from operators import kube, settings
from penstock.runtime import clock as clocks
from penstock.runtime import errors, logs, tasks

_MARGIN = 0.8


class Calls(Protocol):
    """The part of a client that an election needs."""

    async def get(self, path: str) -> kube.Object | None:
        """An object, or None."""

    async def create(self, path: str, document: kube.Object) -> kube.Object | None:
        """Creates an object; None where it is there."""

    async def replace(self, path: str, document: kube.Object) -> kube.Object:
        """Writes an object of the same resourceVersion."""


class Election:
    """This process' bid for the Lease. `leading` may turn False at any time; `changed` is called where it did."""

    def __init__(
        self,
        client: Calls,
        clock: clocks.Clock,
        lease: settings.LeaseSettings,
        namespace: str,
        holder: str,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """`holder` must differ between processes, also over restarts."""
        self._kube, self._clock, self._lease, self._changed = client, clock, lease, changed
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._path = f"{self._collection}/{lease.name}"
        self._log = logs.get("operator")
        self._until_s = 0.0
        # What `changed` was called for last.
        self._told = False
        # Version of the Lease that was seen last, and since when it has been seen.
        self._seen: tuple[str, float] = ("", 0.0)
        self._task: asyncio.Task[None] | None = None
        self.id = holder
        self.holder = ""
        # The same for all that bid for this Lease; of another cluster's another.
        self.lease_uid = ""

    @property
    def leading(self) -> bool:
        """Whether this process may act."""
        return self._clock.monotonic_s() < self._until_s

    async def start(self) -> None:
        """Begins to bid."""
        self._task = asyncio.create_task(self._run(), name="election")

    async def stop(self) -> None:
        """Stops bidding and gives the Lease up, so that a standby need not wait for its end."""
        if self._task is not None:
            await tasks.cancel([self._task])
        if not self.leading:
            return
        self._until_s = 0.0
        self._changed()
        try:
            found = await self._kube.get(self._path)
            if found is not None and found["spec"].get("holderIdentity") == self.id:
                found["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                await self._kube.replace(self._path, found)
        except errors.PenstockError as exc:
            self._log.warning("lease_not_released", id=self.id, reason=str(exc))

    async def _run(self) -> None:
        while True:
            # The end may have come while nothing was asked.
            self._tell()
            try:
                async with asyncio.timeout(self._lease.renew_s * 2):
                    await self.tick()
            except (TimeoutError, errors.PenstockError) as exc:
                self._log.warning("lease_unknown", id=self.id, reason=str(exc) or "no answer", leading=self.leading)
            self._tell()
            wait_s = self._lease.renew_s
            if self.leading:
                # Awake when the time is over, so that the end is noticed at once.
                wait_s = min(wait_s, max(0.05, self._until_s - self._clock.monotonic_s()))
            await self._clock.sleep(wait_s)

    def _tell(self) -> None:
        """Says where it leads now and did not, or the reverse."""
        if self._told != self.leading:
            self._told = self.leading
            self._log.info("leading" if self._told else "not_leading", id=self.id, holder=self.holder)
            self._changed()

    async def tick(self) -> bool:
        """Takes or renews the Lease where that is possible; whether this process leads. Raises as the client."""
        asked_s = self._clock.monotonic_s()
        found = await self._kube.get(self._path)
        if found is None:
            made = await self._kube.create(self._collection, self._document(0))
            return self._taken(made, asked_s) if made is not None else False
        spec = found.get("spec", {})
        self.holder = spec.get("holderIdentity", "")
        version = found["metadata"]["resourceVersion"]
        if version != self._seen[0]:
            self._seen = (version, asked_s)
        ours = self.holder == self.id
        lasts_s = float(spec.get("leaseDurationSeconds", self._lease.duration_s))
        if self.holder and not ours and asked_s - self._seen[1] < lasts_s:
            return False
        changes = int(spec.get("leaseTransitions", 0)) + (not ours)
        renewed = self._document(changes, spec if ours else None)
        renewed["metadata"] = found["metadata"]
        written = await self._kube.replace(self._path, renewed)
        self._seen = (written["metadata"]["resourceVersion"], asked_s)
        return self._taken(written, asked_s)

    def _taken(self, lease: kube.Object, asked_s: float) -> bool:
        self.holder, self.lease_uid = self.id, lease["metadata"].get("uid", "")
        self._until_s = asked_s + self._lease.duration_s * _MARGIN
        return self.leading

    def _document(self, changes: int, before: kube.Object | None = None) -> kube.Object:
        now = datetime.datetime.fromtimestamp(self._clock.now_s(), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self._lease.name},
            "spec": {
                "holderIdentity": self.id,
                "leaseDurationSeconds": max(1, round(self._lease.duration_s)),
                "acquireTime": (before or {}).get("acquireTime") or now,
                "renewTime": now,
                "leaseTransitions": changes,
            },
        }
