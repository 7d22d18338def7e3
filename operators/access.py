"""How to reach an API server: as a Pod by its ServiceAccount, or as a person by a kubeconfig."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import pathlib
import ssl
import subprocess
import tempfile
from collections.abc import Mapping
from typing import Any

import yaml

from penstock.runtime import clock as clocks
from penstock.runtime import errors, logs

ACCOUNT = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
_EXEC_TIMEOUT_S = 60.0
_TOKEN_S = 60.0


@dataclasses.dataclass(frozen=True)
class Access:
    """A server and what opens it: a token or a client certificate (PEM texts)."""

    server: str
    ca: str = ""
    token: str = ""
    cert: str = ""
    key: str = ""
    # The namespace that commands mean where none is given.
    namespace: str = "default"
    verify: bool = True

    def ssl_context(self) -> ssl.SSLContext:
        """Trusts the server's own CA where it is given, and shows the client's certificate."""
        context = ssl.create_default_context(cadata=self.ca or None)
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.cert:
            with tempfile.NamedTemporaryFile("w", suffix=".pem") as both:
                both.write(self.cert + "\n" + self.key)
                both.flush()
                context.load_cert_chain(both.name)
        return context


def in_cluster(environ: Mapping[str, str], folder: pathlib.Path = ACCOUNT) -> Access:
    """That of this Pod's ServiceAccount. Raises `SettingsError` where this is no Pod, or one without a token."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise errors.SettingsError("this is no Pod: KUBERNETES_SERVICE_HOST is not set")
    try:
        ca, token = (folder / "ca.crt").read_text(), (folder / "token").read_text().strip()
        namespace = (folder / "namespace").read_text().strip()
    except OSError as exc:
        raise errors.SettingsError(
            f"{folder}: {exc.strerror}; the Pod needs automountServiceAccountToken: true"
        ) from exc
    shown = f"[{host}]" if ":" in host else host
    return Access(f"https://{shown}:{port}", ca, token, namespace=namespace)


class RotatingToken:
    """The token in a file that the kubelet replaces before it ends (an hour by default): read anew every minute."""

    def __init__(self, path: pathlib.Path, clock: clocks.Clock) -> None:
        self._path, self._clock = path, clock
        self._read_s = -_TOKEN_S
        self._token = ""

    def __call__(self) -> str:
        """The token of now; the last one where the file cannot be read."""
        now_s = self._clock.monotonic_s()
        if not self._token or now_s - self._read_s >= _TOKEN_S:
            self._read_s = now_s
            try:
                self._token = self._path.read_text().strip() or self._token
            except OSError as exc:
                logs.get("operator").warning("account_file_unread", path=str(self._path), reason=exc.strerror)
        return self._token


def kubeconfig_path(environ: Mapping[str, str]) -> pathlib.Path:
    """Where kubectl looks: the first file of KUBECONFIG, else ~/.kube/config."""
    named = environ.get("KUBECONFIG", "").split(os.pathsep)[0]
    return pathlib.Path(named) if named else pathlib.Path(environ.get("HOME", "/")) / ".kube" / "config"


def from_kubeconfig(path: pathlib.Path, context: str | None = None) -> Access:
    """That of a context, the current one by default. Raises `SettingsError` that names what is missing."""
    try:
        config = yaml.safe_load(path.read_text()) or {}
    except OSError as exc:
        raise errors.SettingsError(f"kubeconfig {path}: {exc.strerror}") from exc
    except yaml.YAMLError as exc:
        raise errors.SettingsError(f"kubeconfig {path} is not YAML") from exc
    chosen = context or config.get("current-context") or ""
    used = _named(config, "contexts", chosen, path)
    cluster = _named(config, "clusters", used.get("cluster", ""), path)
    user = _named(config, "users", used.get("user", ""), path)
    if "exec" in user:
        user = _from_program(user["exec"], path)
    token = user.get("token", "")
    if not token and "tokenFile" in user:
        token = pathlib.Path(user["tokenFile"]).read_text().strip()
    return Access(
        cluster["server"],
        _pem(cluster, "certificate-authority", path),
        token,
        _pem(user, "client-certificate", path),
        _pem(user, "client-key", path),
        used.get("namespace", "default"),
        not cluster.get("insecure-skip-tls-verify", False),
    )


def _named(config: dict[str, Any], part: str, name: str, path: pathlib.Path) -> dict[str, Any]:
    for each in config.get(part) or ():
        if each.get("name") == name:
            found: dict[str, Any] = each.get(part[:-1]) or {}
            return found
    known = ", ".join(each.get("name", "") for each in config.get(part) or ()) or "none"
    raise errors.SettingsError(f"kubeconfig {path}: {part[:-1]} {name!r} is not there; there are: {known}")


def _pem(part: dict[str, Any], name: str, path: pathlib.Path) -> str:
    if f"{name}-data" in part:
        return base64.b64decode(part[f"{name}-data"]).decode()
    if name not in part:
        return ""
    try:
        return (path.parent / str(part[name])).read_text()
    except OSError as exc:
        raise errors.SettingsError(f"kubeconfig {path}: {name} {part[name]}: {exc.strerror}") from exc


def _from_program(wanted: dict[str, Any], path: pathlib.Path) -> dict[str, Any]:
    """What a credential plugin answers, in a kubeconfig's own words."""
    command = [wanted["command"], *(wanted.get("args") or ())]
    version = wanted.get("apiVersion", "client.authentication.k8s.io/v1")
    asked = {"apiVersion": version, "kind": "ExecCredential", "spec": {"interactive": False}}
    env = {**os.environ, "KUBERNETES_EXEC_INFO": json.dumps(asked)}
    env |= {each["name"]: each["value"] for each in wanted.get("env") or ()}
    try:
        ran = subprocess.run(command, env=env, capture_output=True, check=True, timeout=_EXEC_TIMEOUT_S)
        status = json.loads(ran.stdout)["status"]
    except (OSError, subprocess.SubprocessError, ValueError, KeyError) as exc:
        raise errors.SettingsError(f"kubeconfig {path}: {command[0]} gave no credentials: {exc}") from exc
    found = {"token": status.get("token", "")}
    for ours, theirs in (("client-certificate", "clientCertificateData"), ("client-key", "clientKeyData")):
        if theirs in status:
            found[f"{ours}-data"] = base64.b64encode(status[theirs].encode()).decode()
    return found
