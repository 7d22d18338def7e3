"""Clients from URLs: one Redis (`redis://`, `rediss://`, `unix://`), one that Sentinels name, or a Redis Cluster.

`redis+sentinel://[user:password@]host:port,host:port/SERVICE[/DB]` asks the Sentinels for the master of SERVICE with each new
connection, so a failover is followed. `rediss+sentinel://` speaks TLS with both. User and password are those of Redis and of
the Sentinels; `?sentinel_auth=off` leaves the latter without. `redis+cluster://[user:password@]host:port,host:port` names some
nodes of a cluster, or one name for all; `rediss+cluster://` speaks TLS with all. Other parameters are the connections'
(`ssl_ca_certs=...`).
"""

from __future__ import annotations

import urllib.parse
from typing import Any, NamedTuple

import redis.asyncio as aioredis
from redis import maint_notifications
from redis.asyncio import connection, sentinel

from penstock.runtime import redis_cluster

ALLOWED = "redis://, rediss://, unix://, redis+sentinel://, rediss+sentinel://, redis+cluster://, rediss+cluster://"
_SENTINEL_PORT = 26_379
_PORT = 6_379


def client(url: str, **options: Any) -> aioredis.Redis:
    """A client that connects on demand. Raises ValueError for a URL that is none."""
    # With them, which are Redis Enterprise's, a pool hands out idle connections that the server has closed.
    options = {"maint_notifications_config": maint_notifications.MaintNotificationsConfig(enabled=False)} | options
    scheme = url.partition("://")[0]
    if scheme in ("redis+sentinel", "rediss+sentinel"):
        return _of_sentinels(url, options)
    if scheme in ("redis+cluster", "rediss+cluster"):
        return _of_cluster(url, options)
    return aioredis.Redis.from_url(url, **options)


def _of_sentinels(url: str, options: dict[str, Any]) -> aioredis.Redis:
    parts = _split(url)
    service, _, db = parts.path.partition("/")
    if not service or not parts.hosts:
        raise ValueError("a Sentinel URL is redis+sentinel://[user:password@]host:port,host:port/SERVICE[/DB]")
    auth = parts.query.pop("sentinel_auth", "on")
    kwargs = parts.options(db or "0") | options
    of_sentinels = {key: value for key, value in kwargs.items() if key not in ("db", "max_connections")}
    if auth == "off":
        of_sentinels = {key: value for key, value in of_sentinels.items() if key not in ("username", "password")}
    addresses = [_address(each, _SENTINEL_PORT) for each in parts.hosts.split(",")]
    asked = sentinel.Sentinel(addresses, sentinel_kwargs=of_sentinels)  # type: ignore[no-untyped-call]
    return asked.master_for(service, **kwargs)  # type: ignore[no-any-return]


def _of_cluster(url: str, options: dict[str, Any]) -> aioredis.Redis:
    parts = _split(url)
    if not parts.hosts or parts.path not in ("", "0"):
        raise ValueError("a cluster's URL is redis+cluster://[user:password@]host:port,host:port, without a database")
    seeds = [_address(each, _PORT) for each in parts.hosts.split(",")]
    return redis_cluster.ClusterClient(seeds, **(parts.options("0") | options))


class _Parts(NamedTuple):
    """What a URL with several hosts consists of."""

    tls: bool
    credentials: str
    hosts: str
    path: str
    query: dict[str, str]

    def options(self, db: str) -> dict[str, Any]:
        """Users, passwords and parameters, read by the client's own parser."""
        place = f"{self.credentials and self.credentials + '@'}localhost/{db}"
        query = "?" + urllib.parse.urlencode(self.query) if self.query else ""
        parsed = connection.parse_url(f"redis://{place}{query}")
        kwargs: dict[str, Any] = {key: value for key, value in parsed.items() if key not in ("host", "port")}
        return kwargs | {"ssl": True} if self.tls else kwargs


def _split(url: str) -> _Parts:
    scheme, _, rest = url.partition("://")
    place, _, query = rest.partition("?")
    netloc, _, path = place.partition("/")
    credentials, _, hosts = netloc.rpartition("@")
    return _Parts(scheme.startswith("rediss"), credentials, hosts, path, dict(urllib.parse.parse_qsl(query)))


def _address(text: str, port: int) -> tuple[str, int]:
    """Host and port of a node. Raises ValueError."""
    split = urllib.parse.urlsplit(f"//{text}")
    if not split.hostname:
        raise ValueError(f"{text!r} is no address")
    return split.hostname, split.port or port
