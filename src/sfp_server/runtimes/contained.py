"""A worker's container as its runtime holds it: ended through the engine, its status by the engine's word."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import structlog

from sfp_server.runtimes.cgroups import Counters
from sfp_server.runtimes.docker import Docker, EngineError, State
from sfp_server.runtimes.launch import kill_exactly, start_time

_log: Any = structlog.get_logger(__name__)

#: seconds between two questions whether the engine knows by now that a container has ended
LOOK_SECONDS = 0.01
#: seconds after its end that the engine has to say how, and between two tries when it does not answer
KNOWN_SECONDS, RETRY_SECONDS = 30.0, 0.5
#: status of a container of which nobody can say how it ended
UNKNOWN = -9


class Contained:
    """Stands where a process and its cgroup stand otherwise (`Outermost`, `Ceilings`).

    `pid` is its process 1 as this machine counts, 0 when the engine is on another one (in a virtual
    machine, say): with it an end is noticed at once, without it when the engine says so.
    """

    def __init__(self, engine: Docker, ident: str, *, pid: int) -> None:
        self.name = ident
        self.pid = pid
        self.started = (start_time(pid) or 0) if pid else 0
        self._engine = engine
        self._state: State | None = None
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._watching = asyncio.create_task(self._watch())
        self._killing: asyncio.Task[None] | None = None

    @property
    def status(self) -> int | None:
        """As `Outermost.status`; a signal's end shows as 128 + its number, as engines tell it."""
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    def call_when_ended(self, callback: Callable[[], None]) -> None:
        self._ended.add_done_callback(lambda _: callback())

    def kill(self) -> None:
        """With process 1 the kernel ends all; where we may not or cannot signal it, the engine does."""
        if self._ended.done() or (self.pid and kill_exactly(self.pid, self.started)):
            return
        if self._killing is None or self._killing.done():
            self._killing = asyncio.create_task(self._kill())

    async def _kill(self) -> None:
        try:
            await self._engine.kill(self.name)
        except EngineError as error:
            _log.warning("runtime.container_not_killed", container=self.name, reason=str(error))

    def limit(self, *, memory_mb: int, processes: int) -> None:
        """Nothing: a container has its ceilings from the start."""

    def counters(self) -> Counters:
        return Counters(out_of_memory=self._state is not None and self._state.out_of_memory)

    async def remove(self, held: int | None = None) -> None:  # noqa: ARG002 (its mounts are the engine's)
        """Remove it; one that the engine does not let go of now is found again by its labels."""
        await remove(self._engine, self.name)

    async def _watch(self) -> None:
        """Learn of the end, and then from the engine how it was."""
        status = UNKNOWN
        try:
            if self.pid:
                await _gone(self.pid)
            status = await self._exit_status()
        except EngineError as error:
            _log.warning("runtime.container_status_unknown", container=self.name, reason=str(error))
        finally:
            self._ended.set_result(status)

    async def _exit_status(self) -> int:
        """Raises EngineError when the engine cannot say: the container is not its any more, or it is gone itself."""
        deadline: float | None = None
        while True:
            try:
                if not self.pid:
                    await self._engine.wait(self.name)
                state = await self._engine.state(self.name)
                if not state.is_running:
                    self._state = state
                    return state.exit_code
                pause = LOOK_SECONDS
            except EngineError as error:
                if error.status == HTTPStatus.NOT_FOUND:
                    raise
                pause = RETRY_SECONDS
            now = asyncio.get_running_loop().time()
            deadline = deadline or now + KNOWN_SECONDS
            if now > deadline:
                raise EngineError(0, "the engine does not say how the container ended")
            await asyncio.sleep(pause)


async def remove(engine: Docker, ident: str) -> None:
    """Remove a container, or say why not: one that an engine cannot let go of must not stop the others."""
    try:
        await engine.remove(ident)
    except EngineError as error:
        _log.warning("runtime.container_not_removed", container=ident, reason=str(error))


async def _gone(pid: int) -> None:
    """Return when the process of this machine has ended."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    loop.add_reader(pidfd, lambda: ended.done() or ended.set_result(None))
    try:
        await ended
    finally:
        loop.remove_reader(pidfd)
        with contextlib.suppress(OSError):
            os.close(pidfd)
