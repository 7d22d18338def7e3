"""A bucket over S3's REST API, signed with signature version 4, or unsigned where no key is given."""

from __future__ import annotations

import datetime
import hashlib
import hmac
import pathlib
import urllib.parse
from collections.abc import Iterator, Mapping
from xml.etree import ElementTree

from penstock.runtime import clock as clocks
from penstock.runtime import errors
from workers.sources import http

_EMPTY = hashlib.sha256(b"").hexdigest()
_GOOGLE = "https://storage.googleapis.com"


class Bucket:
    """The objects below a prefix."""

    def __init__(
        self,
        endpoint: str,
        bucket: str,
        prefix: str,
        region: str,
        key: str,
        secret: str,
        session: str,
        clock: clocks.Clock,
    ) -> None:
        self._endpoint, self._bucket, self._prefix = endpoint.rstrip("/"), bucket, prefix
        self._region, self._key, self._secret, self._session, self._clock = region, key, secret, session, clock

    @classmethod
    def of(cls, uri: str, endpoint: str | None, environ: Mapping[str, str]) -> Bucket:
        """From `s3://bucket/prefix` or `gs://bucket/prefix`, with the usual variables for keys and region."""
        scheme, _, rest = uri.partition("://")
        bucket, _, prefix = rest.partition("/")
        region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        default = _GOOGLE if scheme == "gs" else f"https://s3.{region}.amazonaws.com"
        return cls(
            endpoint or environ.get("AWS_ENDPOINT_URL") or default,
            bucket,
            prefix.rstrip("/") + "/" if prefix.strip("/") else "",
            region,
            environ.get("AWS_ACCESS_KEY_ID", ""),
            environ.get("AWS_SECRET_ACCESS_KEY", ""),
            environ.get("AWS_SESSION_TOKEN", ""),
            clocks.SystemClock(),
        )

    def files(self) -> Iterator[tuple[str, int]]:
        """Every object below the prefix, page by page."""
        token = ""
        while True:
            query = {"list-type": "2", "prefix": self._prefix} | ({"continuation-token": token} if token else {})
            url, headers = self._signed("", query)
            try:
                page = ElementTree.fromstring(http.get(url, headers))
            except ElementTree.ParseError as exc:
                raise errors.TerminalError(f"{self._endpoint} does not answer as an object store does") from exc
            space = page.tag.partition("}")[0] + "}" if page.tag.startswith("{") else ""
            for each in page.iter(f"{space}Contents"):
                name = each.findtext(f"{space}Key", "").removeprefix(self._prefix)
                if name and not name.endswith("/"):
                    yield name, int(each.findtext(f"{space}Size", "0"))
            token = page.findtext(f"{space}NextContinuationToken", "")
            if not token:
                return

    def fetch(self, name: str, target: pathlib.Path) -> None:
        """One object."""
        url, headers = self._signed(self._prefix + name, {})
        http.save(url, headers, target)

    def _signed(self, key: str, query: Mapping[str, str]) -> tuple[str, dict[str, str]]:
        """URL and headers of a GET (AWS Signature Version 4, header form)."""
        path = urllib.parse.quote(f"/{self._bucket}/{key}" if self._bucket else f"/{key}", safe="/~")
        ordered = "&".join(f"{_quoted(name)}={_quoted(value)}" for name, value in sorted(query.items()))
        url = f"{self._endpoint}{path}{'?' + ordered if ordered else ''}"
        if not self._key:
            return url, {}
        now = datetime.datetime.fromtimestamp(self._clock.now_s(), datetime.UTC)
        stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
        headers = {"host": urllib.parse.urlsplit(url).netloc, "x-amz-content-sha256": _EMPTY, "x-amz-date": stamp}
        if self._session:
            headers["x-amz-security-token"] = self._session
        names = ";".join(sorted(headers))
        canonical = "\n".join(
            ["GET", path, ordered, *(f"{name}:{headers[name]}" for name in sorted(headers)), "", names, _EMPTY]
        )
        scope = f"{day}/{self._region}/s3/aws4_request"
        text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
        signing = f"AWS4{self._secret}".encode()
        for part in (day, self._region, "s3", "aws4_request"):
            signing = hmac.new(signing, part.encode(), hashlib.sha256).digest()
        signature = hmac.new(signing, text.encode(), hashlib.sha256).hexdigest()
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self._key}/{scope}, SignedHeaders={names}, Signature={signature}"
        )
        del headers["host"]
        return url, headers


def _quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="-_.~")
