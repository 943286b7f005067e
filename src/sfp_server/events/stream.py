"""Server-sent events of a task: replay, then live, until the task's final event."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from sfp_server.actor import Actor
from sfp_server.events.live import Live, Subscription
from sfp_server.events.model import FINAL_TASK_EVENTS, Frame
from sfp_server.events.outbox import Outbox
from sfp_server.events.rights import Ticket, Viewer

#: seconds between two signs of life
HEARTBEAT = 15.0

_OPENED, _ALIVE = ": sfp.v1\n\n", ": still here\n\n"


async def follow(live: Live, ticket: Ticket, actor: Actor, *, channel: str, after: int) -> AsyncGenerator[str]:
    """The text of the stream. Ends after the task's final event; for a task that is final already, when all is sent.

    Also ends when the right to look does (after an event `gone`) and when the client is too slow.

    Raises:
        NotFound: the team has no such task.
        Unavailable: the database is away.
    """
    outbox = Outbox()
    with live.rights.viewing(ticket, actor) as viewer:
        subscription = await live.open(viewer, channel, after=after, outbox=outbox)
        try:
            yield _OPENED
            live.begin(subscription)
            async for text in _texts(subscription, viewer):
                yield text
        finally:
            live.close(subscription)


async def _texts(subscription: Subscription, viewer: Viewer) -> AsyncGenerator[str]:
    outbox = subscription.outbox
    if subscription.is_final and subscription.cursor >= subscription.seq:
        return
    while True:
        if not len(outbox):
            await first(outbox, viewer, HEARTBEAT)
        if viewer.is_gone:
            gone = msgspec.json.encode({"channel": subscription.feed.channel}).decode()
            yield f"event: gone\ndata: {gone}\n\n"
            return
        if viewer.ended.done() or outbox.broken.done():
            return
        if not len(outbox):
            yield _ALIVE
            continue
        frame = await outbox.take()
        assert isinstance(frame, Frame), "nobody says anything else here"
        yield f"id: {frame.seq}\nevent: {frame.event}\ndata: {frame.body}\n\n"
        if frame.event in FINAL_TASK_EVENTS or (subscription.is_final and frame.seq >= subscription.seq):
            return


async def first(outbox: Outbox, viewer: Viewer, seconds: float) -> None:
    """Wait until something is in the outbox, or it is broken, or the viewer's right or the time has ended."""
    filled = asyncio.create_task(outbox.filled())
    ends: set[asyncio.Future[Any]] = {filled, viewer.ended, outbox.broken}
    try:
        await asyncio.wait(ends, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        filled.cancel()
