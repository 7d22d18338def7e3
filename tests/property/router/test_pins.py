"""What requests in flight hold is what a plain count of their blocks says."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.index import pins

# Prompts as chains over a small tree: a number stands for the whole prefix that leads to it.
PROMPTS = st.lists(st.integers(0, 2), max_size=6).map(
    lambda path: [hash(tuple(path[: end + 1])) for end in range(len(path))]
)


def size_of(position: int) -> int:
    """Blocks grow along the prompt."""
    return 64 * (position + 1)


@given(st.lists(PROMPTS, max_size=12), st.data())
def test_shared_blocks_count_once(prompts: list[list[int]], data: st.DataObject) -> None:
    """After any arrivals and departures, each block that somebody holds counts once, and nothing is left at the end."""
    held = pins.Pins(size_of)
    inside: list[list[int]] = []
    for prompt in prompts:
        held.add(prompt)
        inside.append(prompt)
        if data.draw(st.booleans()):
            held.remove(inside.pop(data.draw(st.integers(0, len(inside) - 1))))
        sizes = {block: size_of(position) for each in inside for position, block in enumerate(each)}
        assert held.held_bytes == sum(sizes.values())
        asked = data.draw(PROMPTS)
        common = 0
        for position, block in enumerate(asked):
            if block not in sizes:
                break
            common += size_of(position)
        assert held.shared_bytes(asked) == common
    for prompt in inside:
        held.remove(prompt)
    assert held.held_bytes == 0
