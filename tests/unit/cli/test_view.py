"""The fleet in words: what is wrong, and what is not known."""

from __future__ import annotations

import pytest

from controller.cli import view
from penstock.api.proto import control_pb2


def fleet(**node: object) -> control_pb2.Fleet:
    """A fleet that is well but for its node."""
    found = control_pb2.Fleet(controller=control_pb2.Controller(id="c"))
    found.nodes.append(control_pb2.Node(id="node-1", **node))
    return found


@pytest.mark.parametrize(
    ("node", "row", "problems"),
    [
        (
            {"gpus": 8, "gpu_w": 3412.4, "cpu_w": 187.0, "lease_left_s": 12.06, "silent_s": 0.0},
            ["node-1", 8, "3412", "187", "12.1", "no"], [],
        ),
        ({"gpus": 0, "lease_left_s": 9.0, "silent_s": 0.0}, ["node-1", 0, "-", "?", "9.0", "no"], []),
        (
            {"gpus": 8, "lease_left_s": 9.0, "silent_s": 0.0, "degraded": ["meter-failed: GPU 3: GPU is lost"]},
            ["node-1", 8, "?", "?", "9.0", "meter-failed: GPU 3: GPU is lost"],
            ["node node-1: meter-failed: GPU 3: GPU is lost"],
        ),
        (
            {"gpus": 8, "lease_left_s": 0.0, "silent_s": 41.2},
            ["node-1", 8, "?", "?", "0.0", "no"],
            ["node node-1: the lease of its agent ended 41 s ago; what it draws is unknown"],
        ),
        ({}, ["node-1", "?", "?", "?", "?", "?"], []),
    ],
    ids=["well", "without GPUs", "a lost GPU", "silent", "without Redis"],
)  # fmt: skip
def test_a_node(node: dict[str, object], row: list[object], problems: list[str]) -> None:
    """Its row, and what keeps the fleet from being healthy."""
    found = fleet(**node)
    assert view.node_rows(found)[1] == [row]
    assert view.problems(found) == problems
    [told] = view.as_json(found)["nodes"]
    assert set(told) >= {"id", "gpus", "gpu_w", "cpu_w", "lease_left_s", "silent_s", "degraded"}
    assert told["gpu_w"] == node.get("gpu_w")
