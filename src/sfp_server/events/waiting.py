"""Waiting for a channel in a plain HTTP request: nobody has to ask again and again."""

import asyncio

from sfp_server.actor import Actor
from sfp_server.events.live import Live
from sfp_server.events.model import FINAL_TASK_EVENTS, Frame
from sfp_server.events.outbox import Outbox
from sfp_server.events.rights import Ticket
from sfp_server.events.stream import first


async def for_event(live: Live, ticket: Ticket, actor: Actor, channel: str, *, after: int, seconds: float) -> None:
    """Wait for an event after number `after`, or until the time is over.

    Raises what ended the caller's right to look, NotFound, Unavailable.
    """
    with live.rights.viewing(ticket, actor) as viewer:
        outbox = Outbox()
        subscription = await live.open(viewer, channel, after=after, outbox=outbox)
        try:
            live.begin(subscription)
            await first(outbox, viewer, seconds)
        finally:
            live.close(subscription)
        if viewer.ended.done():
            raise viewer.ended.result()


async def for_end(live: Live, ticket: Ticket, actor: Actor, channel: str, *, seconds: float) -> None:
    """Wait for a task's final event, or until the time is over. At once when the task is final.

    Raises what ended the caller's right to look, NotFound, Unavailable.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    with live.rights.viewing(ticket, actor) as viewer:
        outbox = Outbox()
        subscription = await live.open(viewer, channel, after=None, outbox=outbox)
        try:
            if subscription.is_final:
                return
            live.begin(subscription)
            while not viewer.ended.done() and not outbox.broken.done() and loop.time() < deadline:
                await first(outbox, viewer, deadline - loop.time())
                while len(outbox):
                    frame = await outbox.take()
                    if isinstance(frame, Frame) and frame.event in FINAL_TASK_EVENTS:
                        return
        finally:
            live.close(subscription)
        if viewer.ended.done():
            raise viewer.ended.result()
