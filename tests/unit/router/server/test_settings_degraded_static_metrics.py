"""Settings say what is wrong; degraded modes are named; URLs are checked; metrics parse."""

from __future__ import annotations

import asyncio
import io

import pytest
import structlog
from prometheus_client import parser

from penstock.runtime import clock as clocks
from penstock.runtime import errors, logs
from penstock.runtime import settings as base
from router.dataplane import account, fleet, gateway
from router.index import prefix
from router.policy import profiles
from router.server import degraded, metrics, static
from router.server import settings as gateway_settings


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"policy": "fastest"}, ["policy: fastest", "flag --policy", "allowed: aibrix, aibrix-preble, default"]),
        ({"port": 70_000}, ["port: 70000", "flag --port", "le 65535"]),
        ({"limits.max_attempts": 0}, ["limits.max_attempts: 0", "ge 1"]),
        ({"id": "Gate Way"}, ["id: Gate Way", "pattern"]),
        ({"polcy": "random"}, ["polcy: unknown key", "did you mean policy?"]),
        ({"tls_cert": "x.pem"}, ["tls_cert and tls_key belong together"]),
        ({"endpoints": ()}, ["give either endpoints", "or redis_url"]),
        ({"redis_url": "redis://localhost"}, ["give either endpoints", "not both"]),
    ],
)
def test_wrong_settings_name_key_value_and_what_is_allowed(flags: dict[str, object], said: list[str]) -> None:
    """A wrong setting stops the start with a message that can be acted on."""
    given = {"endpoints": ("http://127.0.0.1:1",), **flags}
    with pytest.raises(errors.SettingsError) as caught:
        base.load(gateway_settings.GatewaySettings, "gateway", flags=given)
    for part in said:
        assert part in str(caught.value)


def test_wrong_policy_of_a_model_is_an_error() -> None:
    """A profile per model is checked as the general one is."""
    with pytest.raises(ValueError, match="routing profile 'nope' does not exist; allowed"):
        gateway_settings.GatewaySettings(endpoints=("http://a",), policies={"m": "nope"})


def test_degraded_modes_are_kept_with_reason_and_logged_once(request: pytest.FixtureRequest) -> None:
    """A mode holds with its last reason until it is cleared; only its start and its end are logged."""
    stream = io.StringIO()
    logs.configure(logs.LogSettings(format="json"), stream)
    request.addfinalizer(structlog.reset_defaults)
    health = degraded.Degraded(clocks.SystemClock())
    health.set(degraded.SHARING_LOST, "connection refused")
    health.set(degraded.SHARING_LOST, "timed out")
    health.set(degraded.NO_ENDPOINT, "none of 0")
    assert health.lines() == ("no-ready-endpoint: none of 0", "sharing-lost: timed out")
    health.clear(degraded.SHARING_LOST)
    health.clear(degraded.SHARING_LOST)
    assert health.modes() == {"no-ready-endpoint": "none of 0"}
    lines = stream.getvalue().splitlines()
    assert [("degraded" in line, "recovered" in line) for line in lines] == [
        (True, False),
        (True, False),
        (False, True),
    ]
    with pytest.raises(ValueError, match="'tired' is not one of registry-lost"):
        health.set("tired", "late")


@pytest.mark.parametrize(
    ("url", "host", "port", "tls", "name"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1", 8_000, False, "127.0.0.1-8000"),
        ("127.0.0.1:8000/v1", "127.0.0.1", 8_000, False, "127.0.0.1-8000"),
        ("https://Engine.example/v1/", "engine.example", 443, True, "engine.example-443"),
        ("http://engine", "engine", 80, False, "engine-80"),
        ("http://[::1]:9", "::1", 9, False, "1-9"),
    ],
)
def test_target_takes_a_servers_url_apart(url: str, host: str, port: int, tls: bool, name: str) -> None:
    """Scheme, host and port, with the usual ports where none is given."""
    target = static.Target(url)
    assert (target.host, target.port, target.tls, target.id) == (host, port, tls, name)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://a", "is not a URL such as"),
        ("http://", "is not a URL such as"),
        ("http://user@a:1", "is not a URL such as"),
        ("http://a:1/?x=1", "is not a URL such as"),
        ("http://a:1/v2", "the path may be empty or /v1, not '/v2'"),
        ("http://a:99999", "Port out of range"),
        ("http://a:b", "Port could not be cast"),
        ("http://[::1", "Invalid IPv6 URL"),
    ],
)
def test_target_says_what_is_wrong_with_a_url(url: str, said: str) -> None:
    """A URL that cannot be an OpenAI server's is a settings error that quotes it."""
    with pytest.raises(errors.SettingsError) as caught:
        static.Target(url)
    assert said in str(caught.value)
    assert url in str(caught.value)


def test_metrics_parse_and_agree_with_the_account() -> None:
    """The text is valid for Prometheus' own parser, and has the numbers that were counted."""
    loop = asyncio.new_event_loop()
    try:
        endpoints = fleet.Fleet(prefix.PrefixIndex(1 << 20), lambda _: static.connections_of(loop, "h", 1, False))
        owner = gateway.Gateway(loop, endpoints, profiles.by_name("default"), gateway.Limits(), "gw-7")
        book = owner.account
        book.answered('mo"del\n', 200)
        book.refused("overloaded")
        book.requests = 3
        for value in (0.003, 1.0, 400.0):
            book.model("m").ttft_s.observe(value)
        health = degraded.Degraded(clocks.SystemClock())
        health.set(degraded.INDEX_GAP, "gap")
        text = metrics.render(owner, health).decode()
    finally:
        loop.close()
    samples = [sample for family in parser.text_string_to_metric_families(text) for sample in family.samples]
    values = {(sample.name, *sorted(sample.labels.values())): sample.value for sample in samples}
    assert len(values) == len(samples)
    name = metrics.PREFIX
    assert values[name + "answers_total", "200", 'mo"del\n'] == 1
    assert values[name + "refusals_total", "overloaded"] == 1
    assert values[(name + "requests_total",)] == 3
    assert values[name + "time_to_first_token_seconds_count", "m"] == 3
    assert values[name + "time_to_first_token_seconds_sum", "m"] == pytest.approx(401.003)
    assert values[name + "degraded", "index-gap"] == 1
    assert values[name + "degraded", "sharing-lost"] == 0
    buckets = [sample.value for sample in samples if sample.name == name + "time_to_first_token_seconds_bucket"]
    assert len(buckets) == len(account.LATENCY_BOUNDS_S) + 1
    assert buckets == sorted(buckets)
    assert buckets[-1] == 3
