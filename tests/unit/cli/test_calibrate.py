"""What `penstock calibrate` refuses before it asks anybody."""

from __future__ import annotations

import pytest
from click import testing

from controller.cli import calibrate


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{", "is not JSON"),
        ("[1]", "is no JSON object"),
        ('{"temperature": 1, "stream": false, "model": "x"}', "model, stream: measuring sets these itself"),
    ],
)
def test_fields_of_requests_are_checked(given: str, said: str) -> None:
    """The message says what is wrong with them."""
    got = testing.CliRunner().invoke(calibrate.calibrate, ["--extra-body", given])
    assert got.exit_code == 2 and said in " ".join(got.output.split())


def test_a_profile_that_could_not_be_written_is_said_first() -> None:
    """Before minutes of measuring, which would be lost."""
    got = testing.CliRunner().invoke(calibrate.calibrate, ["--out", "no/such/folder/mine.json"])
    assert got.exit_code == 2 and "there is no folder no/such/folder" in got.output
