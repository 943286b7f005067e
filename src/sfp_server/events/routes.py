"""HTTP and WebSocket: the log in pages, a task's events as a stream, and everything live."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from litestar import MediaType, Request, Response, WebSocket, get, websocket
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, HeaderParameter, QueryParameter
from litestar.response import Stream
from litestar.types import ControllerRouterHandler

from sfp_server.db.database import Database
from sfp_server.errors import FieldError, Malformed
from sfp_server.events import service, stream
from sfp_server.events.live import Live
from sfp_server.events.model import Event, parse_channel
from sfp_server.events.outbox import Outbox
from sfp_server.events.rights import SCOPE, Ticket
from sfp_server.events.socket import serve
from sfp_server.web.guard import PUBLIC, address_of, bearer
from sfp_server.web.paging import DEFAULT_LIMIT, Limit, Page, after_number, page
from sfp_server.web.wire import Wire

After = Annotated[int | None, QueryParameter(ge=0, le=2**63 - 1)]
#: seconds of a long poll
Wait = Annotated[float, QueryParameter(ge=0, le=30)]

_Request = Request[Any, Any, Any]


class EventRow(Wire):
    channel: str
    seq: int
    event: str
    at: datetime
    data: Any


# Public for the guard alone: browsers cannot send a header here, so the first message may carry the token.
@websocket("/realtime", opt={"scope": PUBLIC})
async def realtime(socket: WebSocket[Any, Any, Any], live: NamedDependency[Live]) -> None:
    """Follow channels live, protocol `sfp.v1`."""
    await serve(socket, live)


@get("/events", opt={"scope": SCOPE})
async def list_events(
    request: _Request,
    db: NamedDependency[Database],
    live: NamedDependency[Live],
    channel: FromQuery[str],
    after: After = None,
    cursor: FromQuery[str | None] = None,
    limit: Limit = DEFAULT_LIMIT,
    wait: Wait = 0,
) -> Page[EventRow]:
    """The events of a channel after a number, in order; with `wait`, up to so many seconds for the first one."""
    name = parse_channel(channel)
    start = after_number(cursor) or after or 0
    found = await _read(request, db, name, after=start, limit=limit)
    if not found.items and wait:
        await _first(request, live, name, after=start, wait=wait)
        found = await _read(request, db, name, after=start, limit=limit)
    return found


@get("/tasks/{task_id:uuid}/events", opt={"scope": SCOPE, "answers": {200: "text/event-stream", 204: ""}})
async def task_events(
    request: _Request,
    db: NamedDependency[Database],
    live: NamedDependency[Live],
    task_id: FromPath[UUID],
    after: After = None,
    cursor: FromQuery[str | None] = None,
    limit: Limit = DEFAULT_LIMIT,
    last_event_id: Annotated[str | None, HeaderParameter(name="last-event-id")] = None,
) -> Response[Any]:
    """A task's events: a stream (`text/event-stream`), or a page when JSON is asked for.

    A browser whose stream ended connects again by itself with `Last-Event-ID`: when there will never be more,
    it is answered 204, which ends that.
    """
    channel = f"task:{task_id}"
    start = _last_event_id(last_event_id) if last_event_id else after_number(cursor) or after or 0
    accepted = request.headers.get("accept", "")
    if "application/json" in accepted and "text/event-stream" not in accepted:
        found = await _read(request, db, channel, after=start, limit=limit)
        return Response(found, media_type=MediaType.JSON)
    async with db.transaction(request.user) as tx:
        is_final = await service.is_final(tx, channel)
        end = await service.last_seq(tx, channel)
    if last_event_id and is_final and start >= end:
        return Response(None, status_code=204)
    text = stream.follow(live, _ticket(request), request.user, channel=channel, after=start)
    return Stream(
        text, media_type="text/event-stream", headers={"cache-control": "no-store", "x-accel-buffering": "no"}
    )


async def _read(
    request: _Request, db: NamedDependency[Database], channel: str, *, after: int, limit: int
) -> Page[EventRow]:
    async with db.transaction(request.user) as tx:
        await service.is_final(tx, channel)  # the task of another team has no page, not an empty one
        events = await service.read(tx, channel, after, limit + 1)
    return page([_row(event) for event in events], limit, key=lambda row: row.seq)


async def _first(request: _Request, live: Live, channel: str, *, after: int, wait: float) -> None:
    """Wait for an event after `after`, or until the time is over or the right to look has ended."""
    ticket = _ticket(request)
    with live.rights.viewing(ticket, request.user) as viewer:
        outbox = Outbox()
        subscription = await live.open(viewer, channel, after=after, outbox=outbox)
        try:
            live.begin(subscription)
            await stream.first(outbox, viewer, wait)
        finally:
            live.close(subscription)
        if viewer.ended.done():
            raise viewer.ended.result()


def _ticket(request: _Request) -> Ticket:
    team = request.headers.get("x-sfp-team") or None
    return Ticket(token=bearer(request), team=team, address=address_of(request))


def _row(event: Event) -> EventRow:
    return EventRow(channel=event.channel, seq=event.seq, event=event.event, at=event.at, data=event.data)


def _last_event_id(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text) < 2**63:
        return int(text)
    message = "the number of an event of this stream"
    raise Malformed(f"Last-Event-ID: {message}", errors=(FieldError(path="Last-Event-ID", message=message),))


ROUTES: list[ControllerRouterHandler] = [realtime, list_events, task_events]
