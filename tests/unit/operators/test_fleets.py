"""Which registries are followed."""

from __future__ import annotations

from operators import fleets
from penstock.runtime import clock as clocks
from penstock.runtime import registry


async def test_a_namespace_without_deployments_is_followed_no_more() -> None:
    """Each takes a connection; one that is asked for again is followed anew."""
    clock = clocks.SystemClock()
    made: list[str] = []

    def make(namespace: str) -> registry.Registry:
        made.append(namespace)
        return registry.MemoryRegistry(clock)

    followed = fleets.Followed(make, None, clock, lambda namespace, names: None)
    await followed.start()
    assert await followed.records("a") == {} and await followed.records("b") == {}
    await followed.keep({"a"})
    assert await followed.records("a") == {} and made == ["a", "b"]
    assert await followed.records("b") == {} and made == ["a", "b", "b"]
    await followed.stop()
