"""Settings of a node agent that do not go together."""

from __future__ import annotations

import pytest

from penstock.runtime import errors, settings
from power import settings as node_settings

GIVEN = {"PENSTOCK_NODE_ID": "n-1", "PENSTOCK_NODE_REDIS_URL": "redis://:secret@redis:6379/0"}


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"PENSTOCK_NODE_METERS": "rapl", "PENSTOCK_NODE_EXPECT": "nvml"}, r"expect must be among meters \(rapl\), not nvml"),
        ({"PENSTOCK_NODE_METERS": "rapl,rapl"}, "meters must name each meter once"),
        ({"PENSTOCK_NODE_METERS": "ipmi"}, "nvml.*rapl"),
        ({"PENSTOCK_NODE_INTERVAL_S": "0"}, "interval_s: 0 from environment variable PENSTOCK_NODE_INTERVAL_S"),
        ({"PENSTOCK_NODE_ID": "N 1"}, "id: N 1"),
        ({"PENSTOCK_NODE_REDIS": "x"}, "unknown key.*did you mean PENSTOCK_NODE_REDIS_URL"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(env: dict[str, str], said: str) -> None:
    """With what is allowed, and never with the password."""
    with pytest.raises(errors.SettingsError, match=said) as caught:
        settings.load(node_settings.NodeSettings, "node", env=GIVEN | env)
    assert "secret" not in str(caught.value)
