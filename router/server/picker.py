"""The endpoint picker: an Envoy, or a gateway built on one, asks by ext_proc where a request should go, and carries it itself.

Protocol: proposal 004 of the Gateway API Inference Extension (endpoint picker protocol), on external processing. The
answer is the header and the dynamic metadata `x-gateway-destination-endpoint`; candidates may be narrowed by the metadata
`envoy.lb.subset_hint`. The whole request body has to be sent (BUFFERED or FULL_DUPLEX_STREAMED), and response headers and body
too, since they tell when a prompt is prefilled and when a request is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from penstock.api.errors import STATUS, Reason, error_body
from penstock.api.proto import ext_proc_pb2 as ext_proc
from penstock.api.proto import ext_proc_pb2_grpc
from penstock.runtime import logs
from router.dataplane import features, fleet, gateway, heads, pick

SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
DESTINATION = "x-gateway-destination-endpoint"
_NAMESPACE = "envoy.lb"
_SUBSET = ("envoy.lb.subset_hint", f"{DESTINATION}-subset")
# Envoy takes back a body in pieces of at most this size.
_PIECE_BYTES = 60_000


class RefusedError(Exception):
    """A request that gets an answer of the gateway's own."""

    def __init__(self, reason: Reason, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.reason, self.param = reason, param


class Picker(ext_proc_pb2_grpc.ExternalProcessorServicer):
    """Serves ext_proc for one gateway, on its event loop."""

    def __init__(self, owner: gateway.Gateway, keys: heads.Keys) -> None:
        self._gateway, self._keys = owner, keys
        self._log = logs.get("gateway")

    async def Process(
        self, requests: AsyncIterator[ext_proc.ProcessingRequest], context: Any
    ) -> AsyncIterator[ext_proc.ProcessingResponse]:
        """One HTTP request, from its head to the end of its answer."""
        asked = _Asked(self._gateway, self._keys)
        try:
            async for message in requests:
                for response in await asked.take(message):
                    yield response
        except RefusedError as exc:
            self._gateway.account.refused(exc.reason.value)
            yield _immediate(exc, self._gateway.limits.retry_after_s)
        finally:
            asked.end()


class _Asked:
    """What is known of one HTTP request."""

    def __init__(self, owner: gateway.Gateway, keys: heads.Keys) -> None:
        self._gateway, self._keys = owner, keys
        self._path = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = bytearray()
        self._subset: frozenset[str] | None = None
        self._duplex = self._answer_duplex = False
        self._pick: pick.Pick | None = None
        self._status = 0

    async def take(self, message: ext_proc.ProcessingRequest) -> list[ext_proc.ProcessingResponse]:
        """The responses to one message. Raises RefusedError."""
        if message.HasField("protocol_config"):
            self._duplex = message.protocol_config.request_body_mode == ext_proc.FULL_DUPLEX_STREAMED
            self._answer_duplex = message.protocol_config.response_body_mode == ext_proc.FULL_DUPLEX_STREAMED
        match message.WhichOneof("request"):
            case "request_headers":
                return await self._head(message)
            case "request_body":
                return await self._content(message.request_body)
            case "request_trailers":
                found = await self._chosen() if self._duplex and self._pick is None else []
                return [*found, ext_proc.ProcessingResponse(request_trailers=ext_proc.TrailersResponse())]
            case "response_headers":
                return self._answer_head(message.response_headers)
            case "response_body":
                return self._answer_content(message.response_body)
            case "response_trailers":
                return [ext_proc.ProcessingResponse(response_trailers=ext_proc.TrailersResponse())]
            case _:
                return []

    def end(self) -> None:
        """The stream is over: the request has ended, one way or another."""
        if self._pick is not None:
            self._pick.ended(self._status)
            self._pick = None

    async def _head(self, message: ext_proc.ProcessingRequest) -> list[ext_proc.ProcessingResponse]:
        for each in message.request_headers.headers.headers:
            name, value = each.key.lower().encode(), each.raw_value or each.value.encode()
            if name == b":path":
                self._path = value.partition(b"?")[0]
            elif not name.startswith(b":"):
                self._headers.append((name, value))
        hint = message.metadata_context.filter_metadata.get(_SUBSET[0])
        if hint is not None and _SUBSET[1] in hint.fields:
            self._subset = frozenset(part.strip() for part in str(hint[_SUBSET[1]]).split(","))
        if message.request_headers.end_of_stream:
            return [self._anywhere()]
        if self._duplex:
            # The head waits for the choice, and the choice for the body.
            return []
        return [ext_proc.ProcessingResponse(request_headers=ext_proc.HeadersResponse())]

    async def _content(self, body: ext_proc.HttpBody) -> list[ext_proc.ProcessingResponse]:
        self._body += body.body
        if len(self._body) > self._gateway.limits.max_body_bytes:
            raise RefusedError(Reason.TOO_LARGE, f"the body is larger than {self._gateway.limits.max_body_bytes} bytes")
        return await self._chosen() if body.end_of_stream else []

    async def _chosen(self) -> list[ext_proc.ProcessingResponse]:
        """Routes by the whole request."""
        # A Gateway may take a prefix away only after it has asked.
        path = next((each for each in features.HOT_PATHS if self._path.endswith(each)), None)
        body = bytes(self._body)
        if path is None:
            destination = self._least()
        else:
            destination = await self._route(path, body)
        common = ext_proc.CommonResponse(header_mutation=_destination(destination), clear_route_cache=True)
        metadata = {_NAMESPACE: {DESTINATION: destination}}
        if not self._duplex:
            found = ext_proc.ProcessingResponse(request_body=ext_proc.BodyResponse(response=common))
            found.dynamic_metadata.update(metadata)
            return [found]
        head = ext_proc.ProcessingResponse(request_headers=ext_proc.HeadersResponse(response=common))
        head.dynamic_metadata.update(metadata)
        pieces = [body[at : at + _PIECE_BYTES] for at in range(0, len(body), _PIECE_BYTES)] or [b""]
        last = len(pieces) - 1
        return [head, *(_piece("request_body", piece, at == last) for at, piece in enumerate(pieces))]

    async def _route(self, path: bytes, body: bytes) -> str:
        owner = self._gateway
        owner.account.requests += 1
        try:
            prepared = heads.prepare(self._headers, self._keys)
            feature = features.extract(path, body)
        except features.BadRequestError as exc:
            raise RefusedError(Reason.BAD_REQUEST, str(exc), exc.param) from exc
        except heads.RefusedError as exc:
            raise RefusedError(exc.reason, str(exc), exc.param) from exc
        chosen = pick.Pick(owner, feature, prepared.request_id or owner.new_request_id(), prepared)
        self._pick = chosen
        room = asyncio.Event()
        chosen.on_room = room.set
        while True:
            room.clear()
            backend = self._decide(chosen)
            if backend is not None:
                return _address(backend)
            await room.wait()

    def _decide(self, chosen: pick.Pick) -> fleet.Backend | None:
        owner = self._gateway
        pool = owner.fleet.pools.get(chosen.features.model)
        left_out = 0
        if self._subset is not None and pool is not None:
            left_out = sum(each.bit for each in pool.members.values() if _address(each) not in self._subset)
        try:
            return owner.route(chosen, left_out)
        except gateway.UnknownModelError as exc:
            model = chosen.features.model
            raise RefusedError(Reason.MODEL_NOT_FOUND, f"model {model!r} is not served here", "model") from exc
        except gateway.NoEndpointError as exc:
            raise RefusedError(Reason.NO_ENDPOINT, "no endpoint of the model is ready") from exc

    def _anywhere(self) -> ext_proc.ProcessingResponse:
        """A request without a body, such as the list of models."""
        destination = self._least()
        common = ext_proc.CommonResponse(header_mutation=_destination(destination), clear_route_cache=True)
        found = ext_proc.ProcessingResponse(request_headers=ext_proc.HeadersResponse(response=common))
        found.dynamic_metadata.update({_NAMESPACE: {DESTINATION: destination}})
        return found

    def _least(self) -> str:
        """The ready endpoint with the fewest requests. Raises RefusedError."""
        ready = [each for each in self._gateway.fleet.backends.values() if each.health is fleet.Health.OK]
        if self._subset is not None:
            ready = [each for each in ready if _address(each) in self._subset]
        if not ready:
            raise RefusedError(Reason.NO_ENDPOINT, "no endpoint is ready")
        return _address(min(ready, key=lambda each: each.requests()))

    def _answer_head(self, head: ext_proc.HttpHeaders) -> list[ext_proc.ProcessingResponse]:
        for each in head.headers.headers:
            if each.key == ":status":
                text = each.raw_value or each.value.encode()
                self._status = int(text) if text.isdigit() else 0
        if self._pick is not None:
            self._pick.answered()
        if head.end_of_stream:
            self.end()
        return [ext_proc.ProcessingResponse(response_headers=ext_proc.HeadersResponse())]

    def _answer_content(self, body: ext_proc.HttpBody) -> list[ext_proc.ProcessingResponse]:
        if self._pick is not None:
            self._pick.saw(body.body)
        if body.end_of_stream:
            self.end()
        if not self._answer_duplex:
            return [ext_proc.ProcessingResponse(response_body=ext_proc.BodyResponse())]
        return [_piece("response_body", body.body, body.end_of_stream)]


def _address(backend: fleet.Backend) -> str:
    """`ip:port`, as clusters of original destinations take it."""
    endpoint = backend.record.endpoint
    return f"[{endpoint.host}]:{endpoint.port}" if ":" in endpoint.host else f"{endpoint.host}:{endpoint.port}"


def _option(name: str, value: bytes) -> ext_proc.HeaderValueOption:
    return ext_proc.HeaderValueOption(
        header=ext_proc.HeaderValue(key=name, raw_value=value),
        append_action=ext_proc.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
    )


def _destination(address: str) -> ext_proc.HeaderMutation:
    return ext_proc.HeaderMutation(set_headers=[_option(DESTINATION, address.encode())])


def _piece(which: str, data: bytes, last: bool) -> ext_proc.ProcessingResponse:
    """A piece of a body, given back as it came."""
    streamed = ext_proc.StreamedBodyResponse(body=data, end_of_stream=last)
    common = ext_proc.CommonResponse(body_mutation=ext_proc.BodyMutation(streamed_response=streamed))
    body = ext_proc.BodyResponse(response=common)
    if which == "request_body":
        return ext_proc.ProcessingResponse(request_body=body)
    return ext_proc.ProcessingResponse(response_body=body)


def _immediate(exc: RefusedError, retry_after_s: int) -> ext_proc.ProcessingResponse:
    """An answer in OpenAI's shape, that the client gets at once."""
    status = STATUS[exc.reason]
    extra = [_option("content-type", b"application/json")]
    if status in (429, 503):
        extra.append(_option("retry-after", str(retry_after_s).encode()))
    return ext_proc.ProcessingResponse(
        immediate_response=ext_proc.ImmediateResponse(
            status=ext_proc.HttpStatus(code=status),
            headers=ext_proc.HeaderMutation(set_headers=extra),
            body=error_body(exc.reason, str(exc), exc.param),
            details=exc.reason.value,
        )
    )
