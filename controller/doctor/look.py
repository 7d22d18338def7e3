"""Reads a cluster for the checks. What may not be seen is None; what is not there is empty."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import email.utils
import re
from collections.abc import Sequence
from typing import Any

import httpx
import yaml

from controller.doctor import sight
from operators import access, rights
from operators import pods as workers
from penstock.api import crds
from penstock.api.crds import base, schema
from penstock.runtime import clock as clocks
from penstock.runtime import errors

Object = dict[str, Any]
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
LABEL = "app.kubernetes.io/part-of=penstock"
# As KubeRay's own chart and its kustomization label the operator.
_KUBERAY = "app.kubernetes.io/name in (kuberay-operator, kuberay)"
_ADMIN_PORT = 8081
_TIMEOUT_S = 20.0


class Reader:
    """Reads of an API server, each with its status: a refusal is an answer here."""

    def __init__(self, found: access.Access) -> None:
        headers = {"Authorization": f"Bearer {found.token}"} if found.token else {}
        self._http = httpx.AsyncClient(
            base_url=found.server, verify=found.ssl_context(), headers=headers, timeout=_TIMEOUT_S, trust_env=False
        )
        self.server_s: float | None = None
        """The server's own time at its last answer, s since 1970; its leaders' clocks are nearer to it than the caller's."""

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def ask(self, path: str, question: Object | None = None, labels: str = "") -> tuple[int, Object]:
        """Status and body; a question is posted. Raises `RetryableError` where the server is not reached."""
        params = {"labelSelector": labels} if labels else None
        try:
            answer = await self._http.request("POST" if question else "GET", path, json=question, params=params)
        except httpx.TransportError as exc:
            raise errors.RetryableError(f"the API server cannot be reached: {exc!r}") from exc
        if answer.status_code == 401:
            raise errors.TerminalError(
                "the API server does not know this user: the credentials are wrong or have ended"
            )
        try:
            body = answer.json()
        except ValueError:
            body = None
        with contextlib.suppress(KeyError, ValueError):
            self.server_s = email.utils.parsedate_to_datetime(answer.headers["Date"]).timestamp()
        # Errors of proxies in between, and of the server itself, may be plain text.
        return answer.status_code, body if isinstance(body, dict) else {}


class Looker:
    """Looks at one release in one namespace."""

    def __init__(self, reader: Reader, clock: clocks.Clock, namespace: str) -> None:
        self._reader, self._clock, self._namespace = reader, clock, namespace

    async def look(self) -> sight.Sight:
        """Everything at once. Raises `RetryableError` where the server is away."""
        inside = f"/namespaces/{self._namespace}"
        own = f"/apis/{base.API_VERSION}"
        version = await self._version()
        (
            definitions, nodes, profiles, models, hosted, classes, autoscalers,
            deployments, stateful, daemons, pods, claims, leases, secrets, kuberay, everywhere,
        ) = await asyncio.gather(
            self._list(DEFINITIONS),
            self._list("/api/v1/nodes"),
            self._list(f"{own}/acceleratorprofiles"),
            self._list(f"{own}/modeldeployments"),
            self._list("/api/v1/pods", workers.DEPLOYMENT_LABEL),
            self._list("/apis/storage.k8s.io/v1/storageclasses"),
            self._list(f"/apis/autoscaling/v2{inside}/horizontalpodautoscalers", LABEL),
            self._list(f"/apis/apps/v1{inside}/deployments", LABEL),
            self._list(f"/apis/apps/v1{inside}/statefulsets", LABEL),
            self._list(f"/apis/apps/v1{inside}/daemonsets", LABEL),
            self._list(f"/api/v1{inside}/pods", "app.kubernetes.io/component"),
            self._list(f"/api/v1{inside}/persistentvolumeclaims", "app.kubernetes.io/component=redis"),
            self._list(f"/apis/coordination.k8s.io/v1{inside}/leases"),
            self._list(f"/api/v1{inside}/secrets"),
            self._list("/apis/apps/v1/deployments", _KUBERAY),
            self._list("/apis/apps/v1/deployments", LABEL),
        )  # fmt: skip
        kinds = (deployments, stateful, daemons)
        workloads = None if any(each is None for each in kinds) else [each for kind in kinds for each in kind or ()]
        wanted = {each["metadata"]["name"]: each for each in map(_definition, crds.KINDS)}
        present = None if definitions is None else {each["metadata"]["name"]: each for each in definitions}
        return sight.Sight(
            namespace=self._namespace,
            now_s=self._reader.server_s or self._clock.now_s(),
            version=version,
            definitions=None if present is None else {each: present.get(each) for each in wanted},
            wanted_definitions=wanted,
            other_definitions=None if present is None else frozenset(present) - frozenset(wanted),
            rights=await self._rights(workloads or ()),
            nodes=nodes,
            profiles=profiles,
            models=models,
            workers=hosted,
            storage_classes=classes,
            metrics_api=await self._metrics(),
            autoscalers=autoscalers,
            workloads=workloads,
            pods=pods,
            claims=claims,
            leases=None if leases is None else [each for each in leases if "penstock" in each["metadata"]["name"]],
            secrets=None if secrets is None else frozenset(map(sight.name, secrets)),
            kept_secrets=frozenset(sight.name(each) for each in secrets or () if _of_chart(each)),
            kuberay=kuberay,
            elsewhere=None
            if everywhere is None
            else [each for each in everywhere if each["metadata"]["namespace"] != self._namespace],
            gateways=await self._gateways(pods or ()),
        )

    async def _list(self, path: str, labels: str = "") -> list[Object] | None:
        """The objects; none where the kind is not there, None where they may not be seen."""
        status, body = await self._reader.ask(path, labels=labels)
        if status == 404:
            return []
        return list(body["items"]) if status == 200 else None

    async def _version(self) -> tuple[int, int] | None:
        _, found = await self._reader.ask("/version")
        numbers = [re.match(r"\d+", str(found.get(key, ""))) for key in ("major", "minor")]
        return (int(numbers[0][0]), int(numbers[1][0])) if numbers[0] and numbers[1] else None

    async def _metrics(self) -> bool | None:
        status, found = await self._reader.ask("/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io")
        if status != 200:
            return False if status == 404 else None
        conditions = found.get("status", {}).get("conditions", ())
        return any(each["type"] == "Available" and each["status"] == "True" for each in conditions)

    async def _rights(self, workloads: Sequence[Object]) -> list[sight.Right]:
        """Asks for each rule of the operator's roles whether its account may."""
        accounts = [
            each["spec"]["template"]["spec"].get("serviceAccountName", "default")
            for each in workloads
            if sight.component(each) == "operator"
        ]
        if not accounts:
            return []
        places = await self._looked_after()
        needed = [
            (sight.Right(verb, rule.group, resource, namespace), rule.names)
            for rules, namespaces in (
                (rights.NAMESPACED, places),
                (rights.CLUSTER, ("",)),
                (rights.OWN, (self._namespace,)),
            )
            for namespace in namespaces
            for rule in rules
            for resource in rule.resources
            for verb in rule.verbs
        ]
        return list(await asyncio.gather(*(self._may(accounts[0], *each) for each in needed)))

    async def _looked_after(self) -> tuple[str, ...]:
        """Namespaces that the operator's settings name; an empty name stands for all."""
        maps = await self._list(f"/api/v1/namespaces/{self._namespace}/configmaps", LABEL)
        for each in maps or ():
            if sight.component(each) == "operator":
                given = (yaml.safe_load(each["data"]["operator.yaml"]) or {}).get("namespaces", ())
                return tuple(given) or ("",)
        return ("",)

    async def _may(self, account: str, right: sight.Right, names: Sequence[str]) -> sight.Right:
        resource, _, sub = right.resource.partition("/")
        attributes = {
            "verb": right.verb, "group": right.group, "resource": resource, "subresource": sub,
            "namespace": right.namespace, "name": names[0] if names else "",
        }  # fmt: skip
        user = f"system:serviceaccount:{self._namespace}:{account}"
        # Those that every token of an account has.
        groups = ["system:serviceaccounts", f"system:serviceaccounts:{self._namespace}", "system:authenticated"]
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": user, "groups": groups, "resourceAttributes": attributes},
        }
        status, answer = await self._reader.ask(REVIEWS, review)
        if status != 201:
            return right
        return dataclasses.replace(right, allowed=bool(answer["status"]["allowed"]))

    async def _gateways(self, pods: Sequence[Object]) -> list[sight.Gateway]:
        names = [sight.name(each) for each in pods if sight.component(each) == "gateway" and _ready(each)]
        return list(await asyncio.gather(*(self._gateway(each) for each in names)))

    async def _gateway(self, pod: str) -> sight.Gateway:
        """What a gateway says on its admin port, through the API server."""
        path = f"/api/v1/namespaces/{self._namespace}/pods/{pod}:{_ADMIN_PORT}/proxy/debug/state"
        status, found = await self._reader.ask(path)
        return sight.Gateway(pod, status == 200, tuple(found.get("degraded", ())))


def _of_chart(found: Object) -> bool:
    key, _, value = LABEL.partition("=")
    return found["metadata"].get("labels", {}).get(key) == value  # type: ignore[no-any-return]


def _ready(pod: Object) -> bool:
    conditions = {each["type"]: each["status"] for each in pod.get("status", {}).get("conditions", ())}
    return conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]


def _definition(resource: type[base.Resource]) -> Object:
    """As plain data: the same as it would come back from the server."""
    found: Object = yaml.safe_load(yaml.safe_dump(schema.definition(resource)))
    return found
