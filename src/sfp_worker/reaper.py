"""Knows when processes end, and ends them all.

As process 1 of a PID namespace a supervisor reaches everything at once with `kill(-1)`, and the kernel
finishes the job when it exits. Without a namespace it is a subreaper: orphans come to it, and it kills
its descendants, round after round, until none is left.
"""

import os
import select
import time

from sfp_worker import signals

#: seconds that are spent on killing descendants that keep forking, where no namespace helps
END_SECONDS = 10.0


class Reaper:
    def __init__(self, *, namespaced: bool) -> None:
        self._namespaced = namespaced
        self._main = 0
        #: wait status of the program, once it has ended
        self.status: int | None = None
        self._read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signals.handle(signals.SIGCHLD, _woken)
        signals.set_wakeup_fd(write, warn_on_full_buffer=False)

    def fileno(self) -> int:
        return self._read

    def expect(self, pid: int) -> None:
        """`pid` is the program from now on."""
        self._main = pid
        self.status = None
        self._collect()

    def reap(self) -> None:
        """Some process may have ended: take its status."""
        self._empty_pipe()
        self._collect()

    def _empty_pipe(self) -> None:
        try:
            os.read(self._read, 4096)
        except BlockingIOError:
            return

    def _collect(self) -> bool:
        """Take all statuses that are there; True when no child is left at all."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            if pid == self._main:
                self.status = status

    def signal_all(self, number: int) -> None:
        """Send a signal to every process below us."""
        if self._namespaced:
            _send(-1, number)
            return
        for pid in descendants(os.getpid()):
            _send(pid, number)

    def end_all(self) -> None:
        """Kill every process below us and wait until all are gone."""
        deadline = time.monotonic() + END_SECONDS
        while not self._collect():
            self.signal_all(signals.SIGKILL)
            if self._collect():
                return
            if time.monotonic() > deadline:
                return  # the runtime kills the rest from outside
            # A killed child wakes the pipe; a fork that raced the kill does not, hence the ceiling.
            select.select([self._read], [], [], 0.01)
            self._empty_pipe()


def _woken(_number: int, _frame: object) -> None:
    """A handler must exist for the wake-up descriptor to be written."""


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return  # ended already; or, in a namespace, nobody is there


def descendants(root: int) -> list[int]:
    """Every process below `root`, nearest first, by the parents that /proc tells of now."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as file:
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except OSError:
                continue  # ended meanwhile
            children.setdefault(parent, []).append(int(entry))
    found: list[int] = []
    level = [root]
    while level:
        level = [child for parent in level for child in children.get(parent, ())]
        found.extend(level)
    return found
