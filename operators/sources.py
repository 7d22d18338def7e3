"""Where a worker's Pod has its model's files: volumes, and the container that brings them. Pure."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from penstock.api.crds import serving, values

Object = dict[str, Any]

ROOT = "/models"
_VOLUME = "models"


class UnsupportedError(ValueError):
    """A deployment that this version cannot host. The message says what, and what is possible."""


@dataclasses.dataclass(frozen=True)
class Files:
    """What a Pod needs for its model: where the engine finds it, volumes, the engine's mount, the download."""

    path: str
    volumes: tuple[Object, ...] = ()
    mounts: tuple[Object, ...] = ()
    download: Object | None = None


def files(model: serving.Model, image: str, security: Object) -> Files:
    """The files of a model. Raises `UnsupportedError`."""
    source = model.source
    if source is None:
        raise UnsupportedError("model.source is missing -> name a hub, an object store, a volume or a path")
    if source.volume is not None:
        claim = {"claimName": source.volume.claim_name, "readOnly": True}
        mount = {"name": _VOLUME, "mountPath": ROOT, "readOnly": True}
        return Files(f"{ROOT}{source.volume.path}", ({"name": _VOLUME, "persistentVolumeClaim": claim},), (mount,))
    if source.path is not None:
        mount = {"name": _VOLUME, "mountPath": f"{ROOT}/local", "readOnly": True}
        return Files(
            f"{ROOT}/local", ({"name": _VOLUME, "hostPath": {"path": source.path, "type": "Directory"}},), (mount,)
        )
    return _downloaded(model, source, image, security)


def _downloaded(model: serving.Model, source: values.Source, image: str, security: Object) -> Files:
    wanted: Object = {}
    env: list[Object] = []
    env_from: list[Object] = []
    if source.hub is not None:
        wanted = {"repo": source.hub.repo, "revision": source.hub.revision, "endpoint": source.hub.endpoint}
        if source.hub.token is not None:
            reference = {"name": source.hub.token.name, "key": source.hub.token.key}
            env.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": reference}})
    elif source.object_store is not None:
        wanted = {"uri": source.object_store.uri, "endpoint": source.object_store.endpoint}
        if source.object_store.credentials is not None:
            env_from.append({"secretRef": {"name": source.object_store.credentials.name}})
    wanted = {key: value for key, value in wanted.items() if value is not None}
    # The folder is named by what is in it: another source or revision has another one.
    key = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:16]
    path = f"{ROOT}/{key}"
    wanted["folder"] = path
    if model.cache is not None:
        wanted["size_limit_bytes"] = int(values.quantity(model.cache.size_limit))
    container = {
        "name": "download",
        "image": image,
        "command": ["python", "-m", "workers.download"],
        "env": [*env, {"name": "PENSTOCK_DOWNLOAD", "value": json.dumps(wanted, sort_keys=True)}],
        "envFrom": env_from,
        "volumeMounts": [{"name": _VOLUME, "mountPath": ROOT}],
        "resources": {"requests": {"cpu": "500m", "memory": "256Mi"}},
        "securityContext": security,
    }
    mount = {"name": _VOLUME, "mountPath": ROOT, "readOnly": True}
    return Files(path, (_volume(model.cache),), (mount,), {key: each for key, each in container.items() if each})


def _volume(cache: serving.ModelCache | None) -> Object:
    """Where downloads go: kept on the node, on a claim, or with the Pod only."""
    if cache is None:
        return {"name": _VOLUME, "emptyDir": {}}
    if cache.claim_name is not None:
        return {"name": _VOLUME, "persistentVolumeClaim": {"claimName": cache.claim_name}}
    return {"name": _VOLUME, "hostPath": {"path": cache.node_path, "type": "DirectoryOrCreate"}}
