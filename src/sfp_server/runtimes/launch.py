"""Starts a worker's outermost process, and learns from the kernel how it ended."""

import asyncio
import contextlib
import fcntl
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

#: where descriptors are parked while they are put in order for the new process
_PARKED = 512


def start_time(pid: int) -> int | None:
    """Clock ticks since boot at which `pid` started; None when it does not exist (or is a zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] == b"Z" else int(fields[19])


def kill_exactly(pid: int, started: int) -> bool:
    """SIGKILL `pid` if it is still the process that started then; whether it was there."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        # The pidfd holds on to one process: when the start time fits now, that is the one we kill.
        if start_time(pid) != started:
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except OSError:
        return False
    finally:
        os.close(pidfd)
    return True


def memory_file(data: bytes, name: str) -> int:
    """A descriptor from which `data` can be read once."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


class Outermost(Protocol):
    """A worker's outermost process, however it is held: ended through it, and its status learned from it."""

    pid: int
    #: clock ticks since boot; with `pid` it names one process of this machine (0, 0: not one of this machine)
    started: int

    @property
    def status(self) -> int | None:
        """Exit code, minus the signal's number when one ended it; None while it runs."""
        ...

    async def wait(self) -> int: ...

    def call_when_ended(self, callback: Callable[[], None]) -> None: ...

    def kill(self) -> None: ...


class Process:
    """One started process. Only this object reaps it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.started = start_time(pid) or 0
        self._pidfd = os.pidfd_open(pid)
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(self._pidfd, self._reap)

    @property
    def status(self) -> int | None:
        """Exit code, minus the signal's number when one ended it; None while it runs."""
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    def call_when_ended(self, callback: Callable[[], None]) -> None:
        self._ended.add_done_callback(lambda _: callback())

    def kill(self) -> None:
        if not self._ended.done():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _reap(self) -> None:
        result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        if result is None:
            return
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        exited = result.si_code == os.CLD_EXITED
        self._ended.set_result(result.si_status if exited else -result.si_status)


def spawn(argv: Sequence[str], *, env: Mapping[str, str], descriptors: Mapping[int, int]) -> Process:
    """Start `argv` with exactly this environment and exactly these descriptors (target → ours).

    It must be called on the thread that lives as long as the dispatcher: the kernel's parent-death
    signal watches the thread, not the process.

    Raises:
        OSError: the program is not there, or the machine has no room for a process.
    """
    parked = {target: fcntl.fcntl(ours, fcntl.F_DUPFD_CLOEXEC, _PARKED) for target, ours in descriptors.items()}
    try:
        actions = [(os.POSIX_SPAWN_DUP2, source, target) for target, source in parked.items()]
        # Signals that Python ignores would stay ignored in all that the worker starts.
        defaults = [signal.SIGPIPE, signal.SIGXFSZ]
        pid = os.posix_spawn(argv[0], list(argv), dict(env), file_actions=actions, setsigdef=defaults, setsigmask=[])
    finally:
        for descriptor in parked.values():
            os.close(descriptor)
    return Process(pid)
