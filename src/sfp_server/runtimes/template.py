"""The dispatcher's end of a template (`sfp_worker.template`): a process in a sandbox that forks workers.

A template is replaced after a while, so that workers do not share one layout of addresses for days; it ends
when the last worker that it forked has ended.
"""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence

import msgspec

from sfp_server.runtimes.base import RuntimeUnavailable
from sfp_server.runtimes.launch import Process, start_time

#: workers, and seconds, after which a template is replaced
FORKS_AT_MOST = 5000
SECONDS_AT_MOST = 1800.0
_READY_SECONDS = 20.0
_FULL_PAUSE_SECONDS = 0.01


class _Reply(msgspec.Struct):
    """`ready`, `ended` (with the status of the worker `id`), or `refused` (it could not be forked)."""

    t: str
    id: int = 0
    status: int = 0
    errno: int = 0


class Forked:
    """A worker that a template forked; its outermost process is its supervisor."""

    def __init__(self) -> None:
        self.pid = 0
        self.started = 0
        self._pidfd: int | None = None
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def identify(self, pid: int) -> None:
        """Learn which process of this machine it is; it must still be waiting for its job."""
        self.pid, self.started = pid, start_time(pid) or 0
        with contextlib.suppress(OSError):
            self._pidfd = os.pidfd_open(pid)

    @property
    def status(self) -> int | None:
        """As `Outermost.status`."""
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        """As `Outermost.wait`."""
        return await asyncio.shield(self._ended)

    def call_when_ended(self, callback: Callable[[], None]) -> None:
        """As `Outermost.call_when_ended`."""
        self._ended.add_done_callback(lambda _: callback())

    def kill(self) -> None:
        """As `Outermost.kill`."""
        if self._pidfd is not None and not self._ended.done():
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def end(self, status: int) -> None:
        """The template has reaped it, or has died and it with it."""
        if not self._ended.done():
            self._ended.set_result(status)
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


class Template:
    """A running template. `orders` is our end of its socket, `errors` where it and its workers complain."""

    def __init__(self, process: Process, orders: socket.socket, errors: int) -> None:
        orders.setblocking(False)
        self._process = process
        self._orders = orders
        self._errors: int | None = errors
        self._complaint = "no reason given"
        self._workers: dict[int, Forked] = {}
        self._count = 0
        self._born = time.monotonic()
        self._retired = False
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(orders.fileno(), self._hear)
        process.call_when_ended(self._died)

    @property
    def is_usable(self) -> bool:
        """Whether it lives and is young enough to fork more."""
        young = self._count < FORKS_AT_MOST and time.monotonic() - self._born < SECONDS_AT_MOST
        return young and not self._retired and self._process.status is None

    async def until_ready(self) -> None:
        """Raises RuntimeUnavailable when it does not come up, with what it said."""
        try:
            await asyncio.wait_for(asyncio.shield(self._ready), _READY_SECONDS)
        except (TimeoutError, ConnectionError):
            raise RuntimeUnavailable(f"a template for workers cannot be started: {self.complaint()}") from None

    def complaint(self) -> str:
        """The last line that it or one of its workers wrote to its errors."""
        if self._errors is not None:
            said = os.pread(self._errors, 4096, max(0, os.fstat(self._errors).st_size - 4096))
            lines = said.decode("utf-8", "replace").strip().splitlines()
            self._complaint = lines[-1] if lines else self._complaint
        return self._complaint

    async def fork(self, control: int, doors: Sequence[int], *, disk_bytes: int) -> Forked:
        """Order a worker that speaks on `control`, after it went through `doors`; the descriptors stay ours.

        Raises:
            OSError: the template is gone.
        """
        self._count += 1
        number = self._count
        order = msgspec.json.encode({"id": number, "disk_bytes": disk_bytes})
        worker = self._workers[number] = Forked()
        try:
            while not self._sent(order, [control, *doors]):  # noqa: ASYNC110 (the kernel tells of room for a byte, not for an order)
                await asyncio.sleep(_FULL_PAUSE_SECONDS)
        except BaseException:
            self._workers.pop(number, None)
            raise
        return worker

    def _sent(self, order: bytes, descriptors: Sequence[int]) -> bool:
        """Whether the template's socket took it: some hundred orders may wait in it."""
        try:
            socket.send_fds(self._orders, [order], descriptors)
        except BlockingIOError:
            return False
        return True

    def retire(self) -> None:
        """Fork no more, and end with the last worker."""
        self._retired = True
        if not self._workers:
            self._process.kill()

    async def close(self) -> None:
        """End it and all of its workers."""
        self._process.kill()
        await self._process.wait()

    def _hear(self) -> None:
        try:
            data = self._orders.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._orders.fileno())
            self._process.kill()
            return
        reply = msgspec.json.decode(data, type=_Reply)
        if reply.t == "ready" and not self._ready.done():
            self._ready.set_result(None)
        elif (worker := self._workers.pop(reply.id, None)) is not None:
            if reply.t == "refused":
                self._complaint = f"the kernel refuses new namespaces: {os.strerror(reply.errno)}"
            worker.end(reply.status if reply.t == "ended" else -signal.SIGKILL)
            if self._retired:
                self.retire()

    def _died(self) -> None:
        self.complaint()
        if self._errors is not None:
            os.close(self._errors)
            self._errors = None
        with contextlib.suppress(OSError, ValueError):
            asyncio.get_running_loop().remove_reader(self._orders.fileno())
        self._orders.close()
        for worker in self._workers.values():
            worker.end(-signal.SIGKILL)
        self._workers.clear()
        if not self._ready.done():
            self._ready.set_exception(ConnectionError("it died"))
            self._ready.exception()  # somebody looked
