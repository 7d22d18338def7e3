"""KubeRay's operator as a Pod."""

from __future__ import annotations

from typing import Any

from tests.cluster.node import image

NAMESPACE = "kuberay-system"
_NAME = "kuberay-operator"
_LABELS = {"app": _NAME}


def manifests() -> list[dict[str, Any]]:
    """The operator, with all rights: which ones it needs is its makers' matter."""
    container = {
        "name": "operator",
        "image": image.KUBERAY,
        "imagePullPolicy": "Never",
        "args": ["-enable-leader-election=false", "-log-stdout-encoder=console"],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8082}, "periodSeconds": 1},
    }
    template = {"metadata": {"labels": _LABELS}, "spec": {"serviceAccountName": _NAME, "containers": [container]}}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": _NAME, "namespace": NAMESPACE}},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": _NAME},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", "name": _NAME, "namespace": NAMESPACE}],
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": _NAME, "namespace": NAMESPACE},
            "spec": {"replicas": 1, "selector": {"matchLabels": _LABELS}, "template": template},
        },
    ]
