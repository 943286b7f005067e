"""A dispatcher that is frozen, or whose event loop is stuck, must not keep its workers past its leases.

Other dispatchers give its tasks to others once the leases have run out, and a frozen dispatcher cannot end what it
started. So a small process beside it, forked before it has opened anything, listens for a sign of life: when there
is none for half a lease, it kills the dispatcher, and the kernel ends the workers, which hang on its sockets.
"""

import asyncio
import ctypes
import os
import select
import signal
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

#: signs of life within the time after which silence is deadly
_BEATS = 8
_PR_SET_PDEATHSIG = 1


@asynccontextmanager
async def leash(lease_seconds: float) -> AsyncGenerator[None]:
    """Whoever is silent for half a lease inside the block is killed: renewals come every quarter."""
    patience = lease_seconds / 2
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    watched = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            _become_warden(reading, watched, patience)
        finally:
            os._exit(0)
    os.close(reading)
    beating = asyncio.create_task(_beat(writing, patience / _BEATS))
    try:
        yield
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
        os.close(writing)  # which ends it
        with suppress(ChildProcessError):
            await asyncio.to_thread(os.waitpid, pid, 0)


async def _beat(writing: int, seconds: float) -> None:
    while True:
        with suppress(BlockingIOError):  # it has plenty to read, and is slow
            os.write(writing, b".")
        await asyncio.sleep(seconds)


def _become_warden(reading: int, watched: int, patience: float) -> None:
    """In the child: nothing but the pipe is kept. Returns when the dispatcher has ended, or has been killed."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # it ends with the dispatcher, which ends in order
    os.dup2(reading, 0)
    os.closerange(1, 65536)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != watched:
        return
    silent, before = 0.0, time.monotonic()
    while silent < patience:
        heard = bool(select.select([0], [], [], patience / _BEATS)[0])
        now = time.monotonic()
        # Kept waiting ourselves, we cannot tell whether it was silent for so long.
        silent += min(now - before, 2 * patience / _BEATS)
        before = now
        if heard:
            if not os.read(0, 4096):
                return
            silent = 0.0
    os.kill(watched, signal.SIGKILL)
