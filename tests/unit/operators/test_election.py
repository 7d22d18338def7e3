"""Who leads: the Lease is taken, renewed, lost, given up."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from operators import election, kube, settings
from penstock.runtime import clock as clocks
from penstock.runtime import errors

LEASE = settings.LeaseSettings(duration_s=8, renew_s=2)


class Server:
    """One Lease, with the API server's optimistic concurrency; `away` answers nothing."""

    def __init__(self) -> None:
        self.found: dict[str, Any] | None = None
        self.version = 0
        self.away = False
        self.lose_answer = False

    async def get(self, path: str) -> dict[str, Any] | None:
        """The Lease as it is."""
        self._reach()
        return copy.deepcopy(self.found)

    async def create(self, path: str, document: dict[str, Any]) -> dict[str, Any] | None:
        """None where it is there."""
        self._reach()
        return None if self.found is not None else self._write(document)

    async def replace(self, path: str, document: dict[str, Any]) -> dict[str, Any]:
        """Refused where it has changed since."""
        self._reach()
        if self.found is None or document["metadata"]["resourceVersion"] != str(self.version):
            raise kube.ConflictError("409")
        written = self._write(document)
        if self.lose_answer:
            raise errors.RetryableError("the answer was lost")
        return written

    def _write(self, document: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        self.found = copy.deepcopy(document)
        self.found["metadata"]["resourceVersion"] = str(self.version)
        return copy.deepcopy(self.found)

    def _reach(self) -> None:
        if self.away:
            raise errors.RetryableError("away")


def bid(server: Server, clock: clocks.Clock, name: str) -> election.Election:
    """One process' bid."""
    return election.Election(server, clock, LEASE, "penstock", name)


async def test_one_of_two_leads() -> None:
    """The first takes the Lease; the other sees who has it and does not lead, however often it looks."""
    server, clock = Server(), clocks.ManualClock()
    first, second = bid(server, clock, "a"), bid(server, clock, "b")
    assert await first.tick()
    for _ in range(20):
        assert not await second.tick()
        await clock.advance(2)
        assert await first.tick()
    assert second.holder == "a"
    assert server.found is not None and server.found["spec"]["leaseTransitions"] == 0


async def test_a_silent_leader_stops_before_another_begins() -> None:
    """Without a renewal the leader stops by itself, and only then another takes over, within the duration."""
    server, clock = Server(), clocks.ManualClock()
    first, second = bid(server, clock, "a"), bid(server, clock, "b")
    assert await first.tick()
    assert not await second.tick()
    for _ in range(60):
        await clock.advance(0.2)
        if await second.tick():
            break
        assert first.leading == (clock.monotonic_s() < 6.4)
    assert second.leading and not first.leading
    assert clock.monotonic_s() <= 8.2
    assert server.found is not None and server.found["spec"]["leaseTransitions"] == 1


async def test_a_leader_that_cannot_renew_stops() -> None:
    """With the server away, `leading` ends by the clock alone."""
    server, clock = Server(), clocks.ManualClock()
    first = bid(server, clock, "a")
    await first.tick()
    server.away = True
    await clock.advance(6.3)
    with pytest.raises(errors.RetryableError):
        await first.tick()
    assert first.leading
    await clock.advance(0.2)
    assert not first.leading


async def test_a_renewal_whose_answer_was_lost_is_our_own() -> None:
    """The next look finds the Lease with our name, and renews it again."""
    server, clock = Server(), clocks.ManualClock()
    first = bid(server, clock, "a")
    await first.tick()
    server.lose_answer = True
    with pytest.raises(errors.RetryableError):
        await first.tick()
    server.lose_answer = False
    await clock.advance(7)
    assert not first.leading
    assert await first.tick()


async def test_two_at_the_same_version_cannot_both_take_it() -> None:
    """Both saw the end of the Lease; the server takes one of them."""
    server, clock = Server(), clocks.ManualClock()
    await bid(server, clock, "gone").tick()
    first, second = bid(server, clock, "a"), bid(server, clock, "b")
    await first.tick()
    await second.tick()
    await clock.advance(9)
    stale = await server.get("")
    assert await first.tick()
    server_get = server.get

    async def old(path: str) -> dict[str, Any] | None:
        return stale

    server.get = old  # type: ignore[method-assign]  # the twin answers late
    with pytest.raises(kube.ConflictError):
        await second.tick()
    server.get = server_get  # type: ignore[method-assign]
    assert not second.leading


async def test_a_clean_stop_gives_the_lease_up() -> None:
    """Another one leads at its next look."""
    server, clock = Server(), clocks.ManualClock()
    first, second = bid(server, clock, "a"), bid(server, clock, "b")
    await first.tick()
    await second.tick()
    await first.stop()
    assert not first.leading
    assert await second.tick()


async def test_the_end_of_a_lease_is_told() -> None:
    """Also where it comes between two attempts to renew, which a server that refuses at once leaves plenty of time for."""
    server, clock = Server(), clocks.ManualClock()
    told: list[bool] = []
    first = election.Election(server, clock, LEASE, "penstock", "a", lambda: told.append(first.leading))
    await first.start()
    await clock.advance(3)
    server.away = True
    await clock.advance(20)
    assert told == [True, False]
    server.away = False
    await clock.advance(3)
    assert told == [True, False, True]
    await first.stop()
    assert told == [True, False, True, False]
