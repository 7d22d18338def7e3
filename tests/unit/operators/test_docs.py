"""What the page says of the operator is what there is."""

from __future__ import annotations

import pathlib
import re

from operators import metrics

PAGE = (pathlib.Path(__file__).parents[3] / "docs" / "kubernetes.md").read_text()


def test_every_metric_is_on_the_page_and_no_other() -> None:
    """Names in the table of metrics are those that `/metrics` prints."""
    told = set(re.findall(r"`(penstock_operator_[a-z_]+)", PAGE))
    found = {each.name for each in metrics.Metrics().registry.collect()}
    assert {name.removesuffix("_total") for name in told} == found
