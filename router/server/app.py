"""What is not hot, on FastAPI: models, health, metrics, and on the admin port what was decided and why."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from penstock import __version__
from penstock.api.errors import Reason, error_body
from router.dataplane import features, fleet, gateway, heads
from router.server import degraded, metrics

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def _error(reason: Reason, message: str, status: int, headers: dict[str, str] | None = None) -> Response:
    return Response(error_body(reason, message), status, headers, "application/json")


def _install_errors(app: FastAPI) -> None:
    async def on_http_error(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, HTTPException)
        headers = dict(exc.headers) if exc.headers else None
        if exc.status_code == 405:
            return _error(
                Reason.METHOD_NOT_ALLOWED, f"{request.method} is not allowed on {request.url.path}", 405, headers
            )
        if exc.status_code == 404:
            return _error(Reason.NOT_FOUND, f"there is no {request.url.path} here", 404)
        return _error(Reason.BAD_REQUEST, str(exc.detail), exc.status_code, headers)

    app.add_exception_handler(HTTPException, on_http_error)


class _Routes:
    """Handlers over one gateway."""

    def __init__(self, owner: gateway.Gateway, health: degraded.Degraded, keys: heads.Keys) -> None:
        self.gateway = owner
        self.health = health
        self.keys = keys

    async def models(self, request: Request) -> Response:
        """Models that at least one endpoint serves, in OpenAI's shape."""
        if self.keys.required and self.keys.tenant_of(request.headers.get("authorization", "").encode()) is None:
            return _error(Reason.UNAUTHORIZED, "a valid API key is needed: Authorization: Bearer KEY", 401)
        data = []
        for name, pool in sorted(self.gateway.fleet.pools.items()):
            members = list(pool.members.values())
            simulated = any(member.record.simulated for member in members)
            data.append(
                {
                    "id": name,
                    "object": "model",
                    "created": int(min(member.record.started_at_s for member in members)),
                    "owned_by": "penstock-simulated" if simulated else "penstock",
                    "endpoints": sum(1 for member in members if member.health is fleet.Health.OK),
                }
            )
        return JSONResponse({"object": "list", "data": data})

    async def healthz(self) -> Response:
        """The process answers."""
        return JSONResponse({"status": "ok"})

    async def readyz(self, exclude: str = "") -> Response:
        """Whether requests can be served now. With `exclude=endpoints`: whether the gateway itself takes them.

        An orchestrator asks for the latter, or an outage of the workers would take the gateways, and their answers, away.
        """
        ready = exclude == "endpoints" or any(pool.bits for pool in self.gateway.fleet.pools.values())
        if self.gateway.draining or not ready:
            reason = "draining" if self.gateway.draining else "no endpoint is ready"
            return JSONResponse({"status": "not ready", "reason": reason}, 503)
        return JSONResponse({"status": "ready", "degraded": list(self.health.lines())})

    async def metrics(self) -> Response:
        """Prometheus metrics."""
        return Response(metrics.render(self.gateway, self.health), media_type=_METRICS_TYPE)

    async def decisions(self, limit: int = 50) -> Response:
        """The last routing decisions, newest first."""
        limit = max(1, min(limit, 1_000))
        newest = [routed for routed, _ in zip(reversed(self.gateway.decisions), range(limit), strict=False)]
        return JSONResponse({"decisions": [describe(routed) for routed in newest]})

    async def decision(self, request_id: str) -> Response:
        """Every attempt of one request."""
        wanted = request_id.encode()
        attempts = [describe(routed) for routed in self.gateway.decisions if routed.request_id == wanted]
        if not attempts:
            message = (
                f"no decision of request {request_id!r} is kept here (the last {self.gateway.decisions.maxlen} are)"
            )
            return _error(Reason.NOT_FOUND, message, 404)
        return JSONResponse({"gateway": self.gateway.id, "request_id": request_id, "attempts": attempts})

    async def endpoints(self) -> Response:
        """The endpoints as this gateway sees them."""
        index = self.gateway.fleet.index
        rows = []
        for backend in self.gateway.fleet.backends.values():
            rows.append(
                {
                    "id": backend.id,
                    "address": backend.record.endpoint.address,
                    "model": backend.record.model,
                    "state": backend.record.state.value,
                    "health": backend.health.value,
                    "running": backend.running,
                    "waiting": backend.waiting,
                    "queued_tokens": backend.queued_tokens,
                    "peer_running": backend.peer_running,
                    "peer_waiting": backend.peer_waiting,
                    "peer_queued_tokens": backend.peer_queued_tokens,
                    "busy_ms": backend.busy_ms,
                    "peer_busy_ms": backend.peer_busy_ms,
                    "index_blocks": index.blocks_of(backend.slot),
                    "index_fill": index.fill_of(backend.slot),
                }
            )
        return JSONResponse({"endpoints": rows})

    async def state(self) -> Response:
        """One page about this gateway."""
        owner = self.gateway
        return JSONResponse(
            {
                "id": owner.id,
                "version": __version__,
                "policy": owner.profile.name,
                "requests_total": owner.account.requests,
                "inflight": len(owner.active),
                "held": len(owner.holding),
                "index_blocks": owner.fleet.index.entries,
                "index_bytes": owner.fleet.index.bytes,
                "endpoints": len(owner.fleet.backends),
                "draining": owner.draining,
                "degraded": list(self.health.lines()),
            }
        )


def describe(routed: gateway.Routed) -> dict[str, Any]:
    """A decision in words and numbers: every candidate's score by component."""
    decision = routed.decision
    candidates = []
    for position, endpoint in enumerate(decision.candidates):
        parts = {name: round(row[position], 4) for name, row in zip(decision.components, decision.scores, strict=True)}
        candidates.append({"endpoint": endpoint.id, **parts, "total": round(sum(parts.values()), 4)})
    return {
        "request_id": routed.request_id.decode("latin-1"),
        "model": routed.model,
        "policy": routed.profile,
        "attempt": routed.attempt,
        "at_monotonic_s": round(routed.at_s, 6),
        "prompt_tokens_estimate": routed.prompt_tokens,
        "endpoint": decision.endpoint.id,
        "matched_tokens": decision.matched_tokens,
        "reason": decision.reason,
        "candidates": candidates,
    }


def public(owner: gateway.Gateway, health: degraded.Degraded, keys: heads.Keys) -> FastAPI:
    """The application behind the client port."""
    app = FastAPI(
        title="Penstock gateway",
        version=__version__,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    routes = _Routes(owner, health, keys)
    _install_errors(app)
    app.add_api_route("/v1/models", routes.models, methods=["GET"], response_model=None)
    app.add_api_route("/healthz", routes.healthz, methods=["GET"], response_model=None)
    app.add_api_route("/readyz", routes.readyz, methods=["GET"], response_model=None)
    app.add_api_route("/metrics", routes.metrics, methods=["GET"], response_model=None)

    async def hot() -> Response:
        return _error(Reason.NOT_FOUND, "this path must be written without escapes", 404)

    for path in sorted(features.HOT_PATHS):
        app.add_api_route(path.decode(), hot, methods=["POST"], response_model=None)
    return app


def admin(owner: gateway.Gateway, health: degraded.Degraded) -> FastAPI:
    """The application behind the admin port: no client reaches it."""
    app = FastAPI(title="Penstock gateway, admin", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    routes = _Routes(owner, health, heads.Keys({}))
    _install_errors(app)
    for path, handler in (
        ("/healthz", routes.healthz),
        ("/readyz", routes.readyz),
        ("/metrics", routes.metrics),
        ("/debug/decisions", routes.decisions),
        ("/debug/decisions/{request_id}", routes.decision),
        ("/debug/endpoints", routes.endpoints),
        ("/debug/state", routes.state),
    ):
        app.add_api_route(path, handler, methods=["GET"], response_model=None)
    return app
