"""What `penstock doctor` says to do about what keeps a ModelDeployment from being ready."""

from __future__ import annotations

import pytest

from controller.doctor import pods
from tests.support import shell

OWN = pods.Release("pen", "penstock")
UPGRADE = "helm upgrade pen helm/penstock -n penstock --reset-then-reuse-values"


@pytest.mark.parametrize(
    ("cause", "command"),
    [
        (
            'pods "m-0" is forbidden: exceeded quota: small, requested: limits.cpu=9',
            "kubectl -n models edit resourcequota small",
        ),
        (
            'CreateContainerConfigError: secret "hub" not found',
            "kubectl -n models create secret generic hub --from-literal=KEY=VALUE",
        ),
        (
            'CreateContainerConfigError: secret "penstock-redis" not found',
            "kubectl -n penstock get secret penstock-redis -o jsonpath='{.data.url}' | base64 -d | "
            "kubectl -n models create secret generic penstock-redis --from-file=url=/dev/stdin",
        ),
        (
            "CreateContainerConfigError: couldn't find key token in Secret models/hub",
            """kubectl -n models patch secret hub -p '{"stringData":{"token":"VALUE"}}'""",
        ),
        ("pods is forbidden: User x cannot create resource pods", UPGRADE),
        ('violates PodSecurity "restricted:latest"', "kubectl -n models edit md m"),
        ("Service m is there and not of this ModelDeployment", "kubectl -n models get Service m -o yaml"),
        ("AcceleratorProfile h100 is not there", "kubectl apply -f PROFILE.yaml"),
        ("AcceleratorProfile h100: spec.memory is missing", "kubectl edit accel h100"),
        ("the cluster does not know this kind", pods.KUBERAY_INSTALL),
        ("the gateways serve no endpoint picker", f"{UPGRADE} --set gateway.pickerPort=9002"),
        ("something that is not known", "kubectl -n models describe md m"),
    ],
)
def test_a_cause_has_its_command(cause: str, command: str) -> None:
    """For what it names, with the step after it."""
    mend = pods.mend_model("models", "m", cause, "do it", OWN)
    assert mend == f"{command}  # do it"
    assert shell.typed(mend) <= shell.PROGRAMS


@pytest.mark.parametrize("kind", ["HTTPRoutes", "InferencePools"])
def test_definitions_of_others_are_applied(kind: str) -> None:
    """From where their makers have them."""
    mend = pods.mend_model("models", "m", f"the cluster does not know {kind}", "install it", OWN)
    assert mend.startswith("kubectl apply ") and ("manifests.yaml" in mend or "install.yaml" in mend)
    assert shell.typed(mend) <= shell.PROGRAMS
