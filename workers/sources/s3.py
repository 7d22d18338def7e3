"""A bucket over S3's protocol, with the credentials that AWS' own library finds; unsigned where it finds none."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import botocore
import botocore.config
import botocore.session
from botocore import exceptions

from penstock.runtime import errors
from workers.sources import http

_GOOGLE = "https://storage.googleapis.com"
_FORBIDDEN = 403
# Of a body that does not come whole.
_BROKEN = (exceptions.IncompleteReadError, exceptions.ResponseStreamingError, exceptions.ReadTimeoutError)
# Of what the Pod was given: it will not pass.
_WRONG = (
    exceptions.ParamValidationError,
    exceptions.NoRegionError,
    exceptions.InvalidRegionError,
    exceptions.PartialCredentialsError,
    exceptions.ProfileNotFound,
    exceptions.ConfigParseError,
)
# Answers that may be others later, beside those of 500 and more.
_PASSING = frozenset({408, 425, 429})


class Bucket:
    """The objects below a prefix. Clients are botocore's for S3, in the order in which they are tried."""

    def __init__(self, clients: Sequence[Any], bucket: str, prefix: str) -> None:
        self._clients, self._bucket, self._prefix = list(clients), bucket, prefix

    @classmethod
    def of(cls, uri: str, endpoint: str | None) -> Bucket:
        """From `s3://bucket/prefix` or `gs://bucket/prefix`; region and address may be in the environment.

        At Amazon's, credentials are looked for where AWS' tools look: keys in the environment, a web identity (IRSA), EKS Pod
        identity, the node's role; what an identity may not read is tried without a signature, as it may be public. Any other
        store is shown keys of the environment only. Raises `PenstockError`.
        """
        scheme, _, rest = uri.partition("://")
        bucket, _, prefix = rest.partition("/")
        google = scheme == "gs"
        region = (
            os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ("auto" if google else "us-east-1")
        )
        address = endpoint or os.environ.get("AWS_ENDPOINT_URL") or (_GOOGLE if google else None)
        given = bool(os.environ.get("AWS_ACCESS_KEY_ID"))
        with _told(uri):
            session = botocore.session.Session()
            found = given or (address is None and session.get_credentials() is not None)
            clients = [_client(session, region, address, signed=True)] if found else []
            if not given:
                clients.append(_client(session, region, address, signed=False))
        return cls(clients, bucket, prefix.rstrip("/") + "/" if prefix.strip("/") else "")

    def files(self) -> Iterator[tuple[str, int]]:
        """Every object below the prefix."""
        with _told(f"bucket {self._bucket}"):
            try:
                found = list(self._listed())
            except exceptions.ClientError as exc:
                if _status(exc) != _FORBIDDEN or len(self._clients) == 1:
                    raise
                del self._clients[0]
                found = list(self._listed())
        return iter(found)

    def _listed(self) -> Iterator[tuple[str, int]]:
        """Page by page."""
        pages = self._clients[0].get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix):
            for each in page.get("Contents", ()):
                name = each["Key"].removeprefix(self._prefix)
                if name and not name.endswith("/"):
                    yield name, each["Size"]

    def fetch(self, name: str, target: pathlib.Path) -> None:
        """One object. The library tries requests again, this does where a body ends early."""
        key = self._prefix + name
        what, cause = f"{self._bucket}/{key}", ""
        for attempt in range(http.TRIES):
            if attempt:
                http.rest(attempt - 1)
            with _told(what):
                body = self._clients[0].get_object(Bucket=self._bucket, Key=key)["Body"]
            try:
                with open(target, "wb") as out:
                    shutil.copyfileobj(body, out, 2**20)
                return
            except _BROKEN as exc:
                cause = str(exc)
        raise errors.RetryableError(f"{what}: {cause}, {http.TRIES} times")


def _client(session: botocore.session.Session, region: str, address: str | None, *, signed: bool) -> Any:
    config = botocore.config.Config(
        signature_version="s3v4" if signed else botocore.UNSIGNED,
        connect_timeout=http.TIMEOUT_S,
        read_timeout=http.TIMEOUT_S,
        retries={"total_max_attempts": http.TRIES, "mode": "standard"},
        s3={"addressing_style": "path"},
        # Stores that are not Amazon's know no others.
        response_checksum_validation="when_required",
    )
    return session.create_client("s3", region_name=region, endpoint_url=address, config=config)


def _status(exc: exceptions.ClientError) -> int:
    """Of the answer; 0 where it is not told."""
    return int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """The library's errors as ours, with what they are about."""
    try:
        yield
    except exceptions.ClientError as exc:
        passes = _status(exc) >= 500 or _status(exc) in _PASSING
        raise (errors.RetryableError if passes else errors.TerminalError)(f"{what}: {_status(exc)} {exc}") from exc
    except (*_WRONG, ValueError) as exc:
        raise errors.TerminalError(f"{what}: {exc}") from exc
    except exceptions.BotoCoreError as exc:
        raise errors.RetryableError(f"{what}: {exc}") from exc
