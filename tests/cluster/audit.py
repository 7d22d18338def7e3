"""The API server's audit log: who did what, and whether it was allowed."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterator


@dataclasses.dataclass(frozen=True)
class Call:
    """One request as it was decided."""

    user: str
    verb: str
    group: str
    resource: str
    namespace: str
    name: str
    code: int
    allowed: bool


class AuditLog:
    """Flags for an API server that writes one, and what it has written."""

    def __init__(self, folder: pathlib.Path) -> None:
        """`folder` is there."""
        self._file = folder / "audit.jsonl"
        self._policy = folder / "audit-policy.yaml"
        self._policy.write_text(
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived, ResponseStarted]\nrules: [{level: Metadata}]\n"
        )

    @property
    def flags(self) -> tuple[str, ...]:
        """For the API server; what is written is there when the request is answered."""
        return (
            f"--audit-policy-file={self._policy}",
            f"--audit-log-path={self._file}",
            "--audit-log-mode=blocking-strict",
        )

    def calls(self, user: str) -> Iterator[Call]:
        """All requests of a user that concern objects. A watch is there when it has ended."""
        for line in self._file.read_text().splitlines():
            entry = json.loads(line)
            about = entry.get("objectRef")
            if entry["user"].get("username") != user or about is None:
                continue
            sub = about.get("subresource")
            yield Call(
                user=user,
                verb=entry["verb"],
                group=about.get("apiGroup", ""),
                resource=about["resource"] + (f"/{sub}" if sub else ""),
                namespace=about.get("namespace", ""),
                name=about.get("name", ""),
                code=entry.get("responseStatus", {}).get("code", 0),
                allowed=entry.get("annotations", {}).get("authorization.k8s.io/decision") == "allow",
            )
