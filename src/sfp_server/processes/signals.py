"""Ending a process in order."""

import asyncio
import signal
from collections.abc import Awaitable
from contextlib import suppress


def stop_signal() -> asyncio.Event:
    """Set by SIGTERM and SIGINT."""
    event = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, event.set)
    return event


async def until_stopped(event: asyncio.Event, work: Awaitable[None]) -> None:
    """Do `work` until it ends or `event` is set."""
    working = asyncio.ensure_future(work)
    stopped = asyncio.create_task(event.wait())
    await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not working.done():
        working.cancel()
    with suppress(asyncio.CancelledError):
        await working
