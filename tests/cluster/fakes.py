"""Objects for kwok to play."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def node(name: str, *, gpus: int = 0, labels: Mapping[str, str] | None = None, pods: int = 110) -> dict[str, Any]:
    """A node that is ready as soon as kwok sees it."""
    size = {"cpu": "32", "memory": "256Gi", "pods": str(pods)}
    if gpus:
        size["nvidia.com/gpu"] = str(gpus)
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {"kwok.x-k8s.io/node": "fake"},
            "labels": {"type": "kwok", "kubernetes.io/hostname": name, **(labels or {})},
        },
        "status": {"allocatable": size, "capacity": size},
    }
