"""`python -m operators.definitions`: brings the custom resource definitions of the cluster to those of this version.

Server-side apply, so that it may be run again and takes over what Helm made. Nothing is removed.
"""

from __future__ import annotations

import asyncio
import os
import sys

from operators import access, kube
from penstock.api import crds
from penstock.api.crds import schema
from penstock.runtime import errors

PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


async def apply(client: kube.KubeClient) -> list[str]:
    """Applies all of them; a line for each with what was there before. Raises as the client."""
    lines = []
    for resource in crds.KINDS:
        definition = schema.definition(resource)
        name = definition["metadata"]["name"]
        before = await client.get(f"{PATH}/{name}")
        after = await client.apply(f"{PATH}/{name}", definition)
        old = before["metadata"].get("generation") if before else None
        new = after["metadata"].get("generation")
        said = "created" if before is None else "unchanged" if old == new else "changed"
        lines.append(f"{name}: {said}")
    return lines


async def _run() -> int:
    try:
        found = access.in_cluster(os.environ)
    except errors.SettingsError:
        found = access.from_kubeconfig(access.kubeconfig_path(os.environ))
    client = kube.KubeClient(found.server, found.ssl_context(), found.token)
    try:
        print("\n".join(await apply(client)))
    finally:
        await client.close()
    return 0


def main() -> int:
    """Entry point: 0 where all of them are applied, 1 with the reason where not."""
    try:
        return asyncio.run(_run())
    except errors.PenstockError as exc:
        print(f"definitions: {exc}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
