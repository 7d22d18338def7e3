"""Volumes for claims: folders of the cluster's own, made beforehand, as there is nobody who makes them on demand."""

from __future__ import annotations

import pathlib
from typing import Any


def volumes(folder: pathlib.Path, count: int) -> list[dict[str, Any]]:
    """A default storage class and `count` volumes of it, which any Pod may write to."""
    made: list[dict[str, Any]] = [
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": "folders", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
            "provisioner": "kubernetes.io/no-provisioner",
        }
    ]
    for number in range(1, count + 1):
        place = folder / "volumes" / str(number)
        place.mkdir(parents=True)
        # fsGroup does not reach into folders of the host.
        place.chmod(0o777)
        made.append(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": f"folder-{number}"},
                "spec": {
                    "capacity": {"storage": "20Gi"},
                    "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
                    "storageClassName": "folders",
                    "persistentVolumeReclaimPolicy": "Retain",
                    "hostPath": {"path": str(place), "type": "Directory"},
                },
            }
        )
    return made
