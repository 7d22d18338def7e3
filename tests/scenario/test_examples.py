"""The examples of the simulator are whole, and those without a trace run."""

from __future__ import annotations

import pathlib

import pytest

from simulator import scenario, simulation

FOLDER = pathlib.Path(scenario.__file__).parent / "examples"
PIECES = pathlib.Path(__file__).parents[1] / "data" / "traces"
EXAMPLES = sorted(FOLDER.glob("*.yaml"))


def test_there_are_examples() -> None:
    """The folder is where the document says."""
    assert {path.name for path in EXAMPLES} >= {
        "bursty-tenants.yaml",
        "faults.yaml",
        "mooncake.yaml",
        "prefill-decode.yaml",
    }


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_plays(path: pathlib.Path) -> None:
    """Every example can be read; one with made-up requests answers nearly all of them."""
    told = scenario.load(path)
    if told.trace is not None:
        # The trace that it names is for the user to get; a piece of it is here.
        assert told.trace.path.parent == FOLDER
        piece = told.trace.model_copy(update={"path": PIECES / told.trace.path.name})
        figures = simulation.run(told.model_copy(update={"trace": piece})).figures
        assert figures["completed"] == figures["requests"] == 60
        return
    figures = simulation.run(told).figures
    assert figures["completed"] > 0.95 * figures["requests"] > 500
    assert all(figures["classes"][each.name]["requests"] for each in told.classes)
