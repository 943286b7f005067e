"""What holds for every request, whatever the route: times, sizes, an id, headers, one log line.

The outermost layer (pure ASGI). Bodies are not read here, so whoever may not call a route is refused before
its body is: `receive` is wrapped, and whoever reads it gets BodyTimeout when bytes stop coming. How large a body
may be is Litestar's `request_max_body_size` of the route (1 MiB unless it says otherwise).
"""

import asyncio
import re
import time
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import msgspec
import structlog

from sfp_server.errors import BodyTimeout, Malformed, NotFound, SfpError, Unavailable
from sfp_server.web import problems
from sfp_server.web.asgi import App, Message, Receive, Scope, Send, ip_address_in
from sfp_server.web.headers import secured
from sfp_server.web.origins import Origins
from sfp_server.web.ratelimit import RateLimiter, headers_of

#: bytes of a body, unless the route says otherwise
MAX_BODY = 1024 * 1024
#: bytes of the path and of the query, as sent
MAX_PATH = 4096
MAX_QUERY = 8192
#: seconds without a byte of the body
STALL = 30.0
#: what is read and thrown away of a refused body, so that the client sees the answer: bytes, seconds
DRAIN_BYTES = 4 * 1024 * 1024
DRAIN_SECONDS = 2.0

_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")

_log = structlog.get_logger("web")


@dataclass(slots=True, kw_only=True)
class _Body:
    """How far the body of one request was read."""

    receive: Receive
    stall: float
    ended: bool = False
    gone: bool = False

    async def next(self) -> Message:
        """The next ASGI message. Raises BodyTimeout, Malformed when the client left in the middle."""
        if self.ended or self.gone:
            return await self.receive()  # waits for the disconnect, as streams do
        try:
            async with asyncio.timeout(self.stall):
                message = await self.receive()
        except TimeoutError as error:
            raise BodyTimeout("the body stalled") from error
        if message["type"] == "http.disconnect":
            self.gone = True
            raise Malformed("the connection ended within the body")
        self.ended = not message.get("more_body", False)
        return message

    async def drain(self) -> None:
        """Read and forget a small rest. Never raises for what the client does."""
        read = 0
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while not self.ended and read <= DRAIN_BYTES:
                    read += len((await self.next()).get("body", b""))
        except (TimeoutError, SfpError):
            return


@dataclass(slots=True, kw_only=True)
class Limits:
    """ASGI middleware around the whole application."""

    app: App
    limiter: RateLimiter
    origins: Origins
    #: requests per minute of one address, 0: unlimited
    address_limit: int
    stall: float = STALL

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._open_socket(scope, receive, send)
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _identify(scope)
        started = time.perf_counter()
        body = _Body(receive=receive, stall=self.stall)
        body.ended = not _has_body(scope["headers"])
        status = 0  # no answer has begun

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = list(message["headers"])
                if not body.ended and not body.gone:
                    await _make_room(scope["headers"], body, headers)
                headers += [*_common(request_id, scope), *self.origins.answer_fields(scope)]
                message["headers"] = secured(headers, scope["headers"])
            await send(message)

        try:
            await self._handle(scope, body.next, answer)
        except asyncio.CancelledError:
            if not status:  # the process ends: the client may ask another one
                body.gone = True
                await _refuse(Unavailable("this process is ending", retry_after=1), scope, answer)
            raise
        finally:
            _log.info(
                "request",
                method=scope["method"],
                route=scope.get("path_template", ""),
                status=status,
                ms=round((time.perf_counter() - started) * 1000, 1),
            )

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            _check_target(scope)
            self.origins.check_host(scope)
            self.limiter.check(scope, f"address:{ip_address_in(scope)}", "address", self.address_limit)
        except SfpError as error:
            await _refuse(error, scope, send)
            return
        if self.origins.is_preflight(scope):
            fields = self.origins.preflight_fields()
            await send({"type": "http.response.start", "status": 204, "headers": fields})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        await self.app(scope, receive, send)

    async def _open_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A WebSocket: who may not open one is answered as any other request is, in HTTP.

        Browsers let every page open one, and tell where the page came from. Ours takes its token from a header or from
        its first message, neither of which a page has by accident; foreign pages are refused all the same.
        """
        request_id = _identify(scope)
        is_open = False

        async def answer(message: Message) -> None:
            nonlocal is_open
            if message["type"] == "websocket.accept":
                is_open = True
                message["headers"] = secured([*message.get("headers", []), *_common(request_id, scope)], [])
            elif message["type"] == "websocket.close" and not is_open:
                # the framework closes what it has no route for, and what a guard refused
                await _refuse(NotFound("there is no such thing"), scope, refused, kind="websocket.http")
                return
            await send(message)

        async def refused(message: Message) -> None:
            if "headers" in message:
                message["headers"] = secured([*message["headers"], *_common(request_id, scope)], scope["headers"])
            await send(message)

        try:
            _check_target(scope)
            self.origins.check_host(scope)
            self.origins.refuse_foreign(scope)
            self.limiter.check(scope, f"address:{ip_address_in(scope)}", "address", self.address_limit)
        except SfpError as error:
            await _refuse(error, scope, refused, kind="websocket.http")
            return
        await self.app(scope, receive, answer)


def _identify(scope: Scope) -> str:
    """The sane X-Request-Id that the caller sent, or a new one; bound to every log line of this request."""
    sent = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    request_id = sent.decode() if _SANE_ID.fullmatch(sent) else uuid4().hex
    scope.setdefault("state", {})["request_id"] = request_id
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=request_id)
    return request_id


def _has_body(headers: Any) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0 ")) for name, value in headers
    )


def _check_target(scope: Scope) -> None:
    """Refuse targets that are too long, and NUL, which no text column can hold. Raises Malformed."""
    query: bytes = scope.get("query_string", b"")
    if len(scope["path"]) > MAX_PATH or len(query) > MAX_QUERY:
        raise Malformed("the path or query is too long")
    if "\0" in scope["path"] or b"%00" in query or b"\0" in query:
        raise Malformed("the path or query holds a NUL character")


async def _make_room(sent: Any, body: _Body, headers: list[tuple[bytes, bytes]]) -> None:
    """The route answered before it had read the body: read a little rest, else close after the answer."""
    waiting_for_consent = any(name == b"expect" for name, _ in sent)
    if not waiting_for_consent:
        await body.drain()
    if not body.ended:
        headers.append((b"connection", b"close"))


def _common(request_id: str, scope: Scope) -> list[tuple[bytes, bytes]]:
    return [(b"x-request-id", request_id.encode()), *headers_of(scope)]


async def _refuse(error: SfpError, scope: Scope, send: Send, *, kind: str = "http") -> None:
    """Answer without the application: nothing has been routed yet."""
    described = problems.describe(
        error, instance=scope["path"][:200].replace("\0", ""), request_id=problems.request_id(scope), known=False
    )
    content = msgspec.json.encode(described)
    more = [(name.lower().encode(), value.encode()) for name, value in problems.extra_headers(error).items()]
    await send(
        {
            "type": f"{kind}.response.start",
            "status": error.status,
            "headers": [
                (b"content-type", problems.MEDIA_TYPE.encode()),
                (b"content-length", str(len(content)).encode()),
                *more,
            ],
        }
    )
    await send({"type": f"{kind}.response.body", "body": content, "more_body": False})
