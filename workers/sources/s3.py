"""A bucket over S3's protocol, with the credentials that AWS' own library finds; unsigned where it finds none."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import botocore
import botocore.config
import botocore.session
from botocore import exceptions

from penstock.runtime import errors

_GOOGLE = "https://storage.googleapis.com"
_TIMEOUT_S = 60.0
_TRIES = 5
# Of what an error answer says, for good; the rest may pass.
_PASSING = frozenset({408, 425, 429})


class Bucket:
    """The objects below a prefix. `client` is one of botocore's for S3."""

    def __init__(self, client: Any, bucket: str, prefix: str) -> None:
        self._client, self._bucket, self._prefix = client, bucket, prefix

    @classmethod
    def of(cls, uri: str, endpoint: str | None) -> Bucket:
        """From `s3://bucket/prefix` or `gs://bucket/prefix`; region and address may be in the environment.

        Credentials are looked for where AWS' tools look: keys in the environment, a web identity (IRSA), EKS Pod identity,
        the node's role. For `gs://` keys of its interoperable API in the environment are the only ones.
        """
        scheme, _, rest = uri.partition("://")
        bucket, _, prefix = rest.partition("/")
        google = scheme == "gs"
        region = (
            os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ("auto" if google else "us-east-1")
        )
        session = botocore.session.Session()
        # What signs for Amazon is nothing that another store may see.
        keyed = bool(os.environ.get("AWS_ACCESS_KEY_ID")) if google else session.get_credentials() is not None
        config = botocore.config.Config(
            signature_version="s3v4" if keyed else botocore.UNSIGNED,
            connect_timeout=_TIMEOUT_S,
            read_timeout=_TIMEOUT_S,
            retries={"total_max_attempts": _TRIES, "mode": "standard"},
            s3={"addressing_style": "path"},
            # Stores that are not Amazon's know no others.
            response_checksum_validation="when_required",
        )
        address = endpoint or os.environ.get("AWS_ENDPOINT_URL") or (_GOOGLE if google else None)
        client = session.create_client("s3", region_name=region, endpoint_url=address, config=config)
        return cls(client, bucket, prefix.rstrip("/") + "/" if prefix.strip("/") else "")

    def files(self) -> Iterator[tuple[str, int]]:
        """Every object below the prefix, page by page."""
        with _told(f"bucket {self._bucket}"):
            for page in self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix
            ):
                for each in page.get("Contents", ()):
                    name = each["Key"].removeprefix(self._prefix)
                    if name and not name.endswith("/"):
                        yield name, each["Size"]

    def fetch(self, name: str, target: pathlib.Path) -> None:
        """One object."""
        key = self._prefix + name
        for attempt in range(_TRIES):
            try:
                with _told(f"{self._bucket}/{key}"), open(target, "wb") as out:
                    shutil.copyfileobj(self._client.get_object(Bucket=self._bucket, Key=key)["Body"], out, 2**20)
                return
            except errors.RetryableError:
                # The library tries requests again, not bodies that end early.
                if attempt + 1 == _TRIES:
                    raise


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """The library's errors as ours, with what they are about."""
    try:
        yield
    except exceptions.ClientError as exc:
        status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        kind = errors.RetryableError if status >= 500 or status in _PASSING else errors.TerminalError
        raise kind(f"{what}: {status} {exc}") from exc
    except (exceptions.ParamValidationError, exceptions.NoRegionError, exceptions.InvalidRegionError) as exc:
        raise errors.TerminalError(f"{what}: {exc}") from exc
    except exceptions.BotoCoreError as exc:
        raise errors.RetryableError(f"{what}: {exc}") from exc
