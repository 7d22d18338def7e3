"""The Job that brings the definitions to the chart's version, and when there is one."""

from __future__ import annotations

import pytest

from tests.support import charts


@pytest.mark.parametrize(
    ("sets", "there"),
    [
        ((), True),
        (("crds.upgrade=false",), False),
        (("operator.enabled=false",), False),
        (("operator.enabled=false", "crds.withoutOperator=true"), True),
        (("operator.enabled=false", "crds.withoutOperator=true", "crds.upgrade=false"), False),
    ],
    ids=["default", "off", "no-operator", "definitions-only", "off-without-operator"],
)
def test_definitions_are_upgraded_by_whoever_has_the_operator_or_is_told_to(sets: tuple[str, ...], there: bool) -> None:
    """The Job comes with the account, role and binding that it runs with, or none of them does."""
    found = [each for each in charts.template(*sets) if each["metadata"]["name"].startswith("rel-penstock-crds")]
    kinds = ["ClusterRole", "ClusterRoleBinding", "Job", "ServiceAccount"] if there else []
    assert sorted(each["kind"] for each in found) == kinds
    assert all(each["metadata"]["annotations"]["helm.sh/hook"] == "pre-upgrade" for each in found)
