"""The API server as tests speak to it: plain HTTP, so that what is tested shares no code with the operator."""

from __future__ import annotations

import base64
import dataclasses
import pathlib
import ssl
import tempfile
from typing import Any

import httpx
import yaml

from penstock.api import crds
from penstock.api.crds import base

Object = dict[str, Any]
_OWN = {each.__name__: each.KIND for each in crds.KINDS}
_OTHER = {
    "EndpointSlice": "endpointslices",
    "HTTPRoute": "httproutes",
    "InferencePool": "inferencepools",
    "PodDisruptionBudget": "poddisruptionbudgets",
}
_CORE = {
    "Namespace": "namespaces", "Pod": "pods", "Secret": "secrets", "Event": "events", "Service": "services",
    "ResourceQuota": "resourcequotas",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Access:
    """Where an API server is and what opens it. PEM texts; `token` or a client certificate."""

    server: str
    ca: str
    token: str = ""
    cert: str = ""
    key: str = ""

    @classmethod
    def from_kubeconfig(cls, path: pathlib.Path) -> Access:
        """The current context of a kubeconfig. Raises ValueError where it asks for a program that gives credentials."""
        config = yaml.safe_load(path.read_text())
        named = {
            part: {each["name"]: each[part[:-1]] for each in config[part]} for part in ("contexts", "clusters", "users")
        }
        context = named["contexts"][config["current-context"]]
        cluster, user = named["clusters"][context["cluster"]], named["users"][context["user"]]
        if "exec" in user or "auth-provider" in user:
            raise ValueError(f"{path}: give a kubeconfig with a token or a client certificate, not with exec")

        def pem(part: Object, name: str) -> str:
            if f"{name}-data" in part:
                return base64.b64decode(part[f"{name}-data"]).decode()
            return (path.parent / part[name]).read_text() if name in part else ""

        return cls(
            cluster["server"],
            pem(cluster, "certificate-authority"),
            user.get("token", ""),
            pem(user, "client-certificate"),
            pem(user, "client-key"),
        )

    def kubeconfig(self) -> str:
        """The same as a file for kubectl."""
        user: Object = {"token": self.token} if self.token else {}
        for name, text in (("client-certificate", self.cert), ("client-key", self.key)):
            if text:
                user[f"{name}-data"] = base64.b64encode(text.encode()).decode()
        cluster = {"server": self.server, "certificate-authority-data": base64.b64encode(self.ca.encode()).decode()}
        return yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "test", "cluster": cluster}],
                "users": [{"name": "test", "user": user}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                "current-context": "test",
            }
        )

    def ssl_context(self) -> ssl.SSLContext:
        """Trusts the server's CA only, and shows the client's certificate where there is one."""
        context = ssl.create_default_context(cadata=self.ca) if self.ca else ssl.create_default_context()
        if self.cert:
            with tempfile.NamedTemporaryFile("w", suffix=".pem") as both:
                both.write(self.cert + self.key)
                both.flush()
                context.load_cert_chain(both.name)
        return context


class Api:
    """Requests to the API server. Answers are httpx's, whatever their status: refusals are what tests look at."""

    def __init__(self, access: Access) -> None:
        headers = {"Authorization": f"Bearer {access.token}"} if access.token else {}
        self._http = httpx.Client(
            base_url=access.server, verify=access.ssl_context(), headers=headers, timeout=30.0, trust_env=False
        )

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def get(self, path: str, **kwargs: Any) -> httpx.Response:
        """Any path of the server."""
        return self._http.get(path, **kwargs)

    def create(self, document: Object, namespace: str, *, dry_run: bool = False) -> httpx.Response:
        """Creates an object; unknown fields are an error."""
        params = {"fieldValidation": "Strict"} | ({"dryRun": "All"} if dry_run else {})
        return self._http.post(path_of(document, namespace), json=document, params=params)

    def replace(self, document: Object, namespace: str, subresource: str = "") -> httpx.Response:
        """Replaces an object, or its status."""
        path = f"{path_of(document, namespace)}/{document['metadata']['name']}{subresource and '/' + subresource}"
        return self._http.put(path, json=document, params={"fieldValidation": "Strict"})

    def apply(self, document: Object, namespace: str = "default", manager: str = "tests") -> httpx.Response:
        """Server-side apply."""
        return self._http.patch(
            f"{path_of(document, namespace)}/{document['metadata']['name']}",
            content=yaml.safe_dump(document),
            headers={"Content-Type": "application/apply-patch+yaml"},
            params={"fieldManager": manager, "force": "true", "fieldValidation": "Strict"},
        )

    def merge(self, path: str, change: Object) -> httpx.Response:
        """A merge patch of any path."""
        return self._http.patch(path, json=change, headers={"Content-Type": "application/merge-patch+json"})

    def delete(self, document: Object, namespace: str) -> httpx.Response:
        """Deletes an object at once."""
        path = f"{path_of(document, namespace)}/{document['metadata']['name']}"
        return self._http.request("DELETE", path, json={"gracePeriodSeconds": 0})


def path_of(document: Object, namespace: str) -> str:
    """Path of the collection that an object belongs to."""
    kind = document["kind"]
    if kind == "CustomResourceDefinition":
        return "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    if kind in _OWN:
        middle = f"/namespaces/{namespace}" if _OWN[kind].namespaced else ""
        return f"/apis/{base.API_VERSION}{middle}/{_OWN[kind].plural}"
    if kind in _OTHER:
        return f"/apis/{document['apiVersion']}/namespaces/{namespace}/{_OTHER[kind]}"
    if kind in ("Namespace", "Node"):
        return f"/api/v1/{kind.lower()}s"
    return f"/api/v1/namespaces/{namespace}/{_CORE[kind]}"
