"""WebSocket `/sfp/api/realtime`, sub-protocol `sfp.v1`: one client, its subscriptions, its bounded outbox.

Close codes: 4001 not signed in (any more), 4003 may not see events, 4008 too slow, 1003 a binary frame, 1009 too
large a message, 1011 a bug here, 1013 try again later; the reason is the error's code. A client that was closed
resumes with `after`.
"""

import asyncio
from contextlib import suppress
from typing import Any

import msgspec
import structlog
from litestar import WebSocket
from litestar.exceptions import WebSocketDisconnect

from sfp_server.errors import Malformed, SfpError, Unauthenticated, Unavailable
from sfp_server.events.live import Live, Subscription
from sfp_server.events.model import Frame
from sfp_server.events.outbox import Outbox, SlowReader
from sfp_server.events.rights import Ticket, Viewer
from sfp_server.web.guard import address_of, bearer

SUBPROTOCOL = "sfp.v1"
SUBSCRIPTIONS_MAX = 1000
#: bytes of one message from the client
MESSAGE_MAX = 64 * 1024
#: seconds: to authenticate; to send the last words; to wait for a slow client before its connection is dropped
AUTH_TIMEOUT, LAST_WORDS, CLOSING = 10.0, 2.0, 60.0

_log = structlog.get_logger(__name__)

_Socket = WebSocket[Any, Any, Any]


class Auth(msgspec.Struct, tag="auth", forbid_unknown_fields=True):
    token: str
    team: str | None = None


class Subscribe(msgspec.Struct, tag="subscribe", forbid_unknown_fields=True):
    channel: str
    after: int | None = None


class Unsubscribe(msgspec.Struct, tag="unsubscribe", forbid_unknown_fields=True):
    channel: str


class Ping(msgspec.Struct, tag="ping", forbid_unknown_fields=True):
    pass


_DECODER = msgspec.json.Decoder(Auth | Subscribe | Unsubscribe | Ping)


class Refused(Exception):
    """The connection is closed with this code, and the reason in one word."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


async def serve(socket: _Socket, live: Live) -> None:
    """Serve one client until it goes, or may not stay."""
    offered = socket.scope["subprotocols"]
    await socket.accept(subprotocols=SUBPROTOCOL if SUBPROTOCOL in offered else None)
    with suppress(WebSocketDisconnect, OSError):
        try:
            ticket = await _ticket(socket)
            actor = await _let_in(live, ticket)
        except Refused as refused:
            await _close(socket, refused)
            return
        with live.rights.viewing(ticket, actor) as viewer:
            await Session(socket, live, viewer).run()


async def _ticket(socket: _Socket) -> Ticket:
    """From the Authorization header, else from the first message. Raises Refused."""
    team = socket.headers.get("x-sfp-team") or None
    address = address_of(socket)
    if "authorization" in socket.headers:
        try:
            return Ticket(token=bearer(socket), team=team, address=address)
        except Unauthenticated as error:
            raise Refused(4001, error.code) from error
    try:
        async with asyncio.timeout(AUTH_TIMEOUT):
            message = _parse(await _receive(socket))
    except TimeoutError as error:
        raise Refused(4001, "auth_timeout") from error
    except Malformed as error:
        raise Refused(4001, error.code) from error
    if not isinstance(message, Auth):
        raise Refused(4001, Unauthenticated.code)
    return Ticket(token=message.token, team=message.team or team, address=address)


async def _let_in(live: Live, ticket: Ticket) -> Any:
    try:
        return await live.rights.actor(ticket)
    except SfpError as error:
        raise Refused(_close_code(error), error.code) from error


def _close_code(error: SfpError) -> int:
    match error:
        case Unauthenticated():
            return 4001
        case Unavailable():
            return 1013
        case _:
            return 4003


class Session:
    """A client that was let in."""

    def __init__(self, socket: _Socket, live: Live, viewer: Viewer) -> None:
        self._socket = socket
        self._live = live
        self._viewer = viewer
        self._outbox = Outbox()
        self._subscriptions: dict[str, Subscription] = {}

    async def run(self) -> None:
        """Read, write and watch until one of the three comes to its end."""
        reading = asyncio.create_task(self._read())
        writing = asyncio.create_task(self._write())
        ends: set[asyncio.Future[Any]] = {reading, writing, self._viewer.ended, self._outbox.broken}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            self._end_subscriptions()
            await _cancelled(reading)
            refused = self._why(_failure(reading) or _failure(writing))
            if refused is not None and self._viewer.is_gone:
                await self._say_gone()
        finally:
            self._end_subscriptions()
            await _cancelled(reading)
            await _cancelled(writing)
        if refused is not None:
            self._outbox.clear()
            await _close(self._socket, refused)

    def _end_subscriptions(self) -> None:
        for subscription in self._subscriptions.values():
            self._live.close(subscription)

    def _why(self, failure: BaseException | None) -> Refused | None:
        """The reason for the end; None: the client has gone."""
        if self._viewer.ended.done():
            error = self._viewer.ended.result()
            return Refused(_close_code(error), error.code)
        if self._outbox.broken.done():
            failure = self._outbox.broken.result()
        match failure:
            case Refused():
                return failure
            case SlowReader():
                return Refused(4008, "slow_reader")
            case None | WebSocketDisconnect() | OSError():
                return None
            case _:
                _log.error("a realtime connection failed", exc_info=failure)
                return Refused(1011, "internal_error")

    async def _say_gone(self) -> None:
        """Tell it of each channel; what waited to be sent before is not sent any more."""
        self._outbox.clear()
        with suppress(TimeoutError, SlowReader):
            async with asyncio.timeout(LAST_WORDS):
                for channel in self._subscriptions:
                    await self._say({"type": "gone", "channel": channel})
                await self._outbox.sent()

    async def _write(self) -> None:
        while True:
            item = await self._outbox.take()
            text = '{"type":"event",' + item.body[1:] if isinstance(item, Frame) else item
            await self._socket.send({"type": "websocket.send", "text": text, "bytes": None})
            self._outbox.done()

    async def _read(self) -> None:
        while True:
            try:
                await self._answer(_parse(await _receive(self._socket)))
            except SfpError as error:
                await self._say(_error(error))

    async def _answer(self, message: Auth | Subscribe | Unsubscribe | Ping) -> None:
        match message:
            case Subscribe():
                await self._subscribe(message)
            case Unsubscribe():
                self._unsubscribe(message.channel)
            case Ping():
                await self._say({"type": "pong"})
            case Auth():
                await self._renew(message)

    async def _subscribe(self, message: Subscribe) -> None:
        channel = message.channel
        try:
            if message.after is not None and not 0 <= message.after < 2**63:
                raise Malformed("after: a number from 0, or null")
            self._unsubscribe(channel)
            if len(self._subscriptions) >= SUBSCRIPTIONS_MAX:
                raise TooManySubscriptions(f"one connection may have {SUBSCRIPTIONS_MAX} subscriptions")
            opened = await self._live.open(self._viewer, channel, after=message.after, outbox=self._outbox)
        except SfpError as error:
            await self._say({**_error(error), "channel": channel})
            return
        self._subscriptions[channel] = opened
        await self._say({"type": "subscribed", "channel": channel, "seq": opened.seq})
        self._live.begin(opened)

    def _unsubscribe(self, channel: str) -> None:
        subscription = self._subscriptions.pop(channel, None)
        if subscription is not None:
            self._live.close(subscription)

    async def _renew(self, message: Auth) -> None:
        """A newer token of the same caller: the connection outlives the token it began with."""
        now = self._viewer.ticket
        ticket = Ticket(token=message.token, team=message.team or now.team, address=now.address)
        actor = await self._live.rights.actor(ticket)
        if (actor.id, actor.team_id) != (self._viewer.actor.id, self._viewer.actor.team_id):
            raise Malformed("another caller, or another team: open another connection")
        self._live.rights.exchange(self._viewer, ticket, actor)

    async def _say(self, message: dict[str, Any]) -> None:
        await self._outbox.put(msgspec.json.encode(message).decode())


class TooManySubscriptions(Malformed):
    """One connection follows too many channels."""

    code = "too_many_subscriptions"


def _error(error: SfpError) -> dict[str, Any]:
    return {"type": "error", "code": error.code, "message": str(error)}


async def _receive(socket: _Socket) -> str:
    """The next text message. Raises Refused for binary or oversize ones, WebSocketDisconnect."""
    event = await socket.receive()
    if event["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(detail="the client has gone")
    text = event.get("text")
    if not isinstance(text, str):
        raise Refused(1003, "binary")
    if len(text) > MESSAGE_MAX:
        raise Refused(1009, "too_large")
    return text


def _parse(text: str) -> Auth | Subscribe | Unsubscribe | Ping:
    """Raises Malformed."""
    try:
        return _DECODER.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Malformed("not a message of sfp.v1: subscribe, unsubscribe, ping or auth, as JSON") from error


async def _close(socket: _Socket, refused: Refused) -> None:
    """Close with a code. The close frame of a client that does not read waits for it, but not for ever."""
    with suppress(WebSocketDisconnect, OSError, TimeoutError, RuntimeError):
        async with asyncio.timeout(CLOSING):
            await socket.close(refused.code, reason=refused.reason)


async def _cancelled(task: "asyncio.Task[None]") -> None:
    """End a task; how it ended is looked at elsewhere."""
    task.cancel()
    await asyncio.wait({task})
    _failure(task)  # asked for, so that asyncio does not complain that nobody did


def _failure(task: "asyncio.Task[None]") -> BaseException | None:
    return task.exception() if task.done() and not task.cancelled() else None
