"""A service's sign of life for the instance's guard: a file that its event loop touches every second.

`instance/guard.py` reads it. An event loop that is stuck touches nothing, whatever the reason.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

#: seconds
BEAT = 1.0


async def alive(run_directory: Path, pid: int, work: Coroutine[Any, Any, None]) -> None:
    """Do `work`, and show that the loop turns meanwhile, as `run_directory/alive/<pid>`."""
    beating = asyncio.create_task(_beat(run_directory / "alive", str(pid)))
    try:
        await work
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)


async def _beat(folder: Path, name: str) -> None:
    mark = folder / name
    while True:
        # A full disk has no room for a new file: then the guard only sees whether we are stopped.
        with suppress(OSError):
            folder.mkdir(mode=0o700, exist_ok=True)
            mark.touch(mode=0o600)
        await asyncio.sleep(BEAT)
