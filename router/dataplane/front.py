"""The client's side: uvicorn's HTTP protocol, with the three hot paths taken over once their headers are there.

Everything else (other paths, other methods) goes on to uvicorn and so to FastAPI, on the same port, with the same TLS,
limits and graceful shutdown.
"""

from __future__ import annotations

from collections import deque
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import httptools
from mypy_extensions import mypyc_attr
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from penstock.api.errors import STATUS, Reason, error_body
from router.dataplane import exchange, features, framing, heads
from router.dataplane.gateway import TICK_S

if TYPE_CHECKING:
    from router.dataplane import gateway


_PATHS = {path: path for path in features.HOT_PATHS}
_REQUEST_LINES = {path: b"POST " + path + b" HTTP/1.1\r\n" for path in features.HOT_PATHS}
_MAX_PIPELINED = 32
_LINGER_S = 2.0
# How long a connection has been idle when a stopping gateway closes it without having said so.
_LEAVING_IDLE_S = 1.0
# A connection whose heads differ this often in a row is no longer asked whether they repeat.
_UNLIKE_HEADS = 4
_PHRASES = {
    400: b"Bad Request", 401: b"Unauthorized", 404: b"Not Found", 405: b"Method Not Allowed", 408: b"Request Timeout",
    413: b"Content Too Large", 429: b"Too Many Requests", 431: b"Request Header Fields Too Large", 502: b"Bad Gateway",
    503: b"Service Unavailable", 504: b"Gateway Timeout",
}  # fmt: skip


@mypyc_attr(native_class=False)
class FrontProtocol(HttpToolsProtocol):
    """One client connection."""

    def __init__(self, owner: gateway.Gateway, keys: heads.Keys, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.owner = owner
        self.keys = keys
        self.exchange: exchange.Exchange | None = None
        self.write_paused = False
        # The request that is being read, where its path is hot.
        self._path: bytes | None = None
        self._body: bytes | list[bytes] = b""
        self._body_bytes = 0
        self._head_bytes = 0
        self._in_head = True
        # Bytes since the last piece of a body: trailers and chunk extensions, which nothing here uses.
        self._unused_bytes = 0
        self._message_tick = 0
        self._busy_reading = False
        # Nothing more is read from this connection: it closes after the answers that are owed.
        self._deaf = False
        self._close_after = False
        # Our side is closed for writing; the client's bytes are read and dropped until it has read the answer.
        self._lingering = False
        self._pipelined: deque[tuple[bytes, list[tuple[bytes, bytes]], bytes, bool, bool]] = deque()
        self.takes_chunks = True
        self._prepared: heads.Prepared | None = None
        self._length = b""
        # The head of the request that is being read, as it came, where it can be recognised when it comes again.
        self._raw_head = b""
        self._repeat: heads.RepeatedHead | None = None
        # Heads in a row that were none of a repetition.
        self._unlike = 0
        # Bytes still to come of a body whose head was recognised.
        self._wanted = 0

    # Connection.

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        ex, self.exchange = self.exchange, None
        self._pipelined.clear()
        if ex is not None:
            ex.client_left()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Called by the transport: the client reads too slowly."""
        self.write_paused = True
        super().pause_writing()
        if self.exchange is not None:
            self.exchange.pause()

    def resume_writing(self) -> None:
        """Called by the transport: the client reads again."""
        self.write_paused = False
        super().resume_writing()
        if self.exchange is not None:
            self.exchange.resume()

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        if self._deaf:
            return
        if self._wanted:
            self._collect(data)
            return
        if self._in_head and not self._busy_reading:
            if self._recognise(data):
                return
            end = data.find(b"\r\n\r\n") if self._unlike < _UNLIKE_HEADS else -1
            self._raw_head = data[: end + 4] if end >= 0 else b""
        if self._in_head:
            # Counts what came before in the same head: one read may bring a head with a large body behind it.
            if self._head_bytes > self.owner.limits.max_head_bytes:
                self._reject(Reason.HEADERS_TOO_LARGE, f"headers over {self.owner.limits.max_head_bytes} bytes")
                return
            self._head_bytes += len(data)
        elif self._unused_bytes > self.owner.limits.max_head_bytes:
            self._reject(
                Reason.HEADERS_TOO_LARGE, f"trailers or chunk extensions over {self.owner.limits.max_head_bytes} bytes"
            )
            return
        else:
            self._unused_bytes += len(data)
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserCallbackError as exc:
            if not isinstance(exc.__context__, httptools.HttpParserInvalidURLError):
                # A mistake of ours, not the client's: the loop logs it and ends the connection.
                raise
            self._reject(Reason.BAD_REQUEST, "the request's target is not valid")
        except httptools.HttpParserError:
            self._reject(Reason.BAD_REQUEST, "this is not a valid HTTP request")
        except httptools.HttpParserUpgrade:
            self._reject(Reason.BAD_REQUEST, "protocol upgrades are not supported")

    def _recognise(self, data: bytes) -> bool:
        """Reads a request whose head is the last one's again, without the parser. False: it is not, nothing was done."""
        repeat = self._repeat
        if repeat is None:
            return False
        if not repeat.match(data):
            self._repeat = None
            self._unlike += 1
            return False
        if (
            self.exchange is not None
            or self._pipelined
            or self._close_after
            or repeat.length > self.owner.limits.max_body_bytes
            or (self.cycle is not None and not self.cycle.response_complete)
        ):
            return False
        self._unlike = 0
        self._head_bytes = 0
        body = data[repeat.body_at :]
        missing = repeat.length - len(body)
        if missing == 0:
            self.takes_chunks = True
            self._serve(repeat.path, repeat.prepared, body)
            return True
        if missing < 0:
            # More requests behind this one: the parser takes them apart.
            return False
        self._busy_reading = True
        self._message_tick = self.owner.tick
        self._wanted = missing
        self._body = [body]
        return True

    def _collect(self, data: bytes) -> None:
        """More of the body of a request whose head was recognised."""
        wanted = self._wanted
        more = b""
        if len(data) > wanted:
            data, more = data[:wanted], data[wanted:]
        self._body.append(data)  # type: ignore[union-attr]
        self._wanted = wanted - len(data)
        if self._wanted:
            return
        body = b"".join(self._body)  # type: ignore[arg-type]
        self._body = b""
        self._busy_reading = False
        repeat = self._repeat
        assert repeat is not None
        self.takes_chunks = True
        self._serve(repeat.path, repeat.prepared, body)
        if more:
            self.data_received(more)

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn where the bytes are not HTTP."""
        self._reject(Reason.BAD_REQUEST, msg)

    def shutdown(self) -> None:
        """Called by uvicorn when the server stops: the connection ends with the next answer, which says so, or when idle.

        To close it between two requests would lose the second one, where the client is just sending it.
        """
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
        self.check_deadlines(self.owner.tick)

    # Parser.

    def on_message_begin(self) -> None:
        """A request begins."""
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self._length = b""
        self.expect_100_continue = False
        self._path = None
        self._in_head = True
        self._busy_reading = True
        self._message_tick = self.owner.tick

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header. The length is kept apart, so that the rest is the same from request to request."""
        if not self._in_head:
            # A trailer must not pass for a header (RFC 9110, section 6.5.1).
            return
        name = name.lower()
        if name == b"content-length":
            self._length = value
        else:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is complete: ours, or uvicorn's."""
        self._in_head = False
        self._unused_bytes = 0
        if self._deaf:
            return
        version = self.parser.get_http_version()
        if version != "1.1" and version != "1.0":
            self._reject(Reason.BAD_REQUEST, "only HTTP/1.1 and HTTP/1.0 are spoken here")
            return
        limit = self.owner.limits.max_head_bytes
        if self._head_bytes > limit and sum(len(name) + len(value) + 4 for name, value in self.headers) > limit:
            self._reject(Reason.HEADERS_TOO_LARGE, f"headers over {limit} bytes")
            return
        path = _PATHS.get(self.url.partition(b"?")[0])
        if path is None or self.parser.get_method() != b"POST":
            self._hand_over()
            return
        self._path = path
        self._body = b""
        self._body_bytes = 0
        if self._length and int(self._length) > self.owner.limits.max_body_bytes:
            self._too_large()
            return
        prepared = self._prepared
        if prepared is not None and prepared.headers == self.headers:
            return
        for name, value in self.headers:
            if name == b"expect" and value.lower() == b"100-continue":
                self._prepared = None
                if self.exchange is None:
                    self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            elif name == b"content-encoding" and value.lower() != b"identity":
                self._reject(Reason.BAD_REQUEST, "content-encoding is not supported: send the body as it is")
                return

    def _hand_over(self) -> None:
        """Gives a request that is not hot to uvicorn."""
        if self.exchange is not None or self._pipelined:
            # Answers must keep their order; a client that pipelines across kinds has to ask again on a new connection.
            self._deaf = self._close_after = True
            return
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        self.headers.extend(headers)
        if self._length:
            self.headers.append((b"content-length", self._length))
        for name, value in headers:
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
        super().on_headers_complete()
        if self.owner.draining:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._unused_bytes = 0
        if self._deaf:
            return
        if self._path is None:
            super().on_body(body)
            return
        self._body_bytes += len(body)
        if self._body_bytes > self.owner.limits.max_body_bytes:
            self._too_large()
        elif not self._body:
            self._body = body
        elif type(self._body) is list:
            self._body.append(body)
        else:
            self._body = [self._body, body]  # type: ignore[list-item]

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._head_bytes = 0
        self._in_head = True
        if self._deaf:
            return
        path = self._path
        self._busy_reading = False
        if path is None:
            super().on_message_complete()
            if self._close_after and self.cycle.response_complete and not self.transport.is_closing():
                self.transport.close()
            return
        body = self._body if type(self._body) is bytes else b"".join(self._body)  # type: ignore[arg-type]
        self._body = b""
        chunks = self.parser.get_http_version() != "1.0"
        keep = self.parser.should_keep_alive()
        raw, self._raw_head = self._raw_head, b""
        if self.exchange is None and not self._pipelined and (self.cycle is None or self.cycle.response_complete):
            self._begin(path, self.headers, body, chunks, keep)
            prepared = self._prepared
            if raw and chunks and keep and prepared is not None and prepared.headers == self.headers:
                self._repeat = heads.repeated(raw, path, prepared)
        elif (self.exchange is None and not self._pipelined) or len(self._pipelined) >= _MAX_PIPELINED:
            self._deaf = self._close_after = True
        else:
            self.flow.pause_reading()
            self._pipelined.append((path, self.headers, body, chunks, keep))

    # Requests.

    def _begin(self, path: bytes, headers: list[tuple[bytes, bytes]], body: bytes, chunks: bool, keep: bool) -> None:
        """Serves a request; what its headers come to is kept for the connection's next, whose headers are usually the same."""
        self.takes_chunks = chunks
        if not keep:
            self._close_after = True
        prepared = self._prepared
        if prepared is None or prepared.headers != headers:
            self._prepared = None
            try:
                prepared = heads.prepare(headers, self.keys)
            except heads.RefusedError as exc:
                self.owner.account.requests += 1
                self._answer_error(exc.reason, exc.message, exc.param, self.owner.new_request_id())
                return
            if not any(name == b"expect" for name, _ in headers):
                # Each of these wants its own interim answer.
                self._prepared = prepared
        self._serve(path, prepared, body)

    def _serve(self, path: bytes, prepared: heads.Prepared, body: bytes) -> None:
        owner = self.owner
        owner.account.requests += 1
        request_id = prepared.request_id or owner.new_request_id()
        if owner.draining and not self._pipelined:
            self._close_after = True
        if len(owner.active) >= owner.limits.max_inflight:
            self._answer_error(
                Reason.OVERLOADED, f"{owner.limits.max_inflight} requests are in flight here", None, request_id
            )
            return
        try:
            feature = features.extract(path, body)
        except features.BadRequestError as exc:
            self._answer_error(Reason.BAD_REQUEST, str(exc), exc.param, request_id)
            return
        head = b"%bx-request-id: %b\r\ncontent-length: %d\r\n\r\n" % (prepared.forwarded, request_id, len(body))
        ex = exchange.Exchange(owner, self, feature, (_REQUEST_LINES[path], head, body), request_id, prepared)
        self.exchange = ex
        ex.start()

    def answer_head(self, ex: exchange.Exchange, head: framing.Head) -> bytes:
        """Head of the answer for the client."""
        backend = ex.backend
        assert backend is not None
        extra = b""
        if (not self.takes_chunks and head.length is None) or (head.length is None and not head.chunked):
            self._close_after = True
        if self._close_after and not self._pipelined:
            extra = b"connection: close\r\n"
        headers = head.headers
        if not self.takes_chunks and head.chunked:
            headers = b"\r\n".join(
                line for line in headers.split(b"\r\n") if not line.lower().startswith(b"transfer-encoding:")
            )
        if head.status in (429, 503) and b"retry-after:" not in headers.lower():
            extra += b"retry-after: %d\r\n" % self.owner.limits.retry_after_s
        return b"".join((
            b"HTTP/1.1",
            head.status_line[8:],
            b"\r\nx-penstock-endpoint: ",
            backend.id.encode(),
            b"\r\nx-request-id: ",
            ex.request_id,
            b"\r\n",
            extra,
            headers,
            b"\r\n",
        ))  # fmt: skip

    def cut(self, ex: exchange.Exchange, event: bytes | None, ended_event: bool) -> None:
        """An answer that has begun cannot be finished: an error event where a stream allows one, then the end."""
        if event is None or not ex.features.stream or self.transport.is_closing():
            self.exchange = None
            self.transport.abort()
            return
        text = b"" if ended_event else b"\n\n"
        text += b"data: " + event + b"\n\ndata: [DONE]\n\n"
        if self.takes_chunks and ex.head is not None and ex.head.chunked:
            text = b"%x\r\n%b\r\n0\r\n\r\n" % (len(text), text)
        self.transport.write(text)
        self.finished(ex)

    def refuse(self, reason: Reason, message: str, param: str | None, request_id: bytes) -> None:
        """Answers a request with an error of the gateway's own."""
        self.owner.account.refused(str(reason))
        if not self.transport.is_closing():
            self.transport.write(self._error(reason, message, param, request_id, close=self._close_after))

    def finished(self, ex: exchange.Exchange) -> None:
        """The answer to `ex` is complete."""
        if self.exchange is ex:
            self.exchange = None
        self._next()

    def _answer_error(self, reason: Reason, message: str, param: str | None, request_id: bytes) -> None:
        self.refuse(reason, message, param, request_id)
        self._next()

    def _next(self) -> None:
        """After an answer: the next pipelined request, the end, or a wait for the next one."""
        if self.transport.is_closing():
            return
        self.server_state.total_requests += 1
        if self._pipelined and not (self._close_after and not self._deaf):
            self.owner.loop.call_soon(self._start_pipelined)
        elif self._close_after:
            self.transport.close()
        else:
            self.flow.resume_reading()
            self._message_tick = self.owner.tick

    def _start_pipelined(self) -> None:
        if self._pipelined and self.exchange is None and not self.transport.is_closing():
            self._begin(*self._pipelined.popleft())

    def check_deadlines(self, tick: int) -> None:
        """Ends a connection that sends its request too slowly, or that has been idle for too long. Every TICK_S."""
        if self.exchange is not None or self._deaf or (self.cycle is not None and not self.cycle.response_complete):
            return
        waited_s = (tick - self._message_tick) * TICK_S
        if self._busy_reading or self._head_bytes:
            if waited_s > self.owner.limits.body_timeout_s:
                self._reject(Reason.REQUEST_TIMEOUT, f"the request did not arrive within {waited_s:.0f} s")
        elif waited_s >= (_LEAVING_IDLE_S if self.owner.draining else self.owner.limits.keep_alive_s):
            self.transport.close()

    def connection_made(self, transport: Any) -> None:
        """Called by the loop."""
        super().connection_made(transport)
        self._message_tick = self.owner.tick

    def on_response_complete(self) -> None:
        """Called by uvicorn after an answer of FastAPI's."""
        self._message_tick = self.owner.tick
        super().on_response_complete()
        if self._close_after and self.cycle.response_complete:
            self.transport.close()

    def _too_large(self) -> None:
        self._reject(Reason.TOO_LARGE, f"the body is over {self.owner.limits.max_body_bytes} bytes")

    def _reject(self, reason: Reason, message: str) -> None:
        """Answers and closes: the rest of what the client sends cannot be used."""
        self._deaf = self._close_after = True
        if self._lingering or self.transport.is_closing():
            return
        if self.exchange is None and not self._pipelined and (self.cycle is None or self.cycle.response_complete):
            self.owner.account.refused(str(reason))
            self.transport.write(self._error(reason, message, None, self.owner.new_request_id(), close=True))
            self._linger()

    def _linger(self) -> None:
        """Closes after the client had time to read: to close with its bytes unread would make TCP drop our answer."""
        if not self.transport.can_write_eof():
            self.transport.close()
            return
        self._lingering = True
        self.transport.write_eof()
        self.flow.resume_reading()
        self.owner.loop.call_later(_LINGER_S, self.transport.close)

    def _error(self, reason: Reason, message: str, param: str | None, request_id: bytes, *, close: bool) -> bytes:
        status = STATUS[reason]
        body = error_body(reason, message, param)
        extra = b"connection: close\r\n" if close else b""
        if status in (429, 503):
            extra += b"retry-after: %d\r\n" % self.owner.limits.retry_after_s
        form = b"HTTP/1.1 %d %b\r\ndate: %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nx-request-id: %b\r\n"
        return (form + b"%b\r\n%b") % (
            status, _PHRASES[status], formatdate(usegmt=True).encode(), len(body), request_id, extra, body,
        )  # fmt: skip
