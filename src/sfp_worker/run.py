"""Runs one program under watch: pumps its output, reports progress, obeys `terminate`, ends it all."""

from __future__ import annotations

import fcntl
import os
import select
import time

from sfp_worker import protocol, spawn
from sfp_worker.control import HIGH_WATER, Control
from sfp_worker.failure import Failed
from sfp_worker.logs import Batch, Lines
from sfp_worker.progress import Progress
from sfp_worker.reaper import Reaper
from sfp_worker.redact import Redactor
from sfp_worker.signals import SIGKILL, SIGTERM

TYPE_CHECKING = False  # typing costs more to import than all of this package
if TYPE_CHECKING:
    from collections.abc import Callable

    from sfp_worker.gate import Gate


READ_BYTES = 64 * 1024
#: seconds between two rounds of killing what hides (only where no PID namespace does it)
KILL_ROUND_SECONDS = 0.02
#: lines remembered of a helper's output
TAIL_LINES = 20


class Ended:
    """How the program ended: its wait status, in the words of the protocol."""

    def __init__(self, code: int | None, signal_number: int | None) -> None:
        self.code = code
        self.signal = signal_number


class Watch:
    """One program and everything it starts, until all of it is gone.

    `rename` is the stream under which a helper's output (git's) is shown.
    """

    def __init__(
        self,
        control: Control,
        reaper: Reaper,
        redactor: Redactor,
        *,
        grace_seconds: float,
        output_bytes: int,
        rename: str | None = None,
    ) -> None:
        self._control = control
        self._reaper = reaper
        self._grace = grace_seconds
        self._room = output_bytes
        self._rename = rename
        self._batch = Batch(self._send_lines)
        self._lines = {name: Lines(redactor.stream()) for name in ("stdout", "stderr")}
        self._streams: dict[int, str] = {}
        self._poll = select.poll()
        self._paused = False
        self._handlers: dict[int, Callable[[], None]] = {}
        self._progress: Progress | None = None
        self._gate: Gate | None = None
        self._kill_at: float | None = None
        self._over = False
        self.terminated = False
        self.output_bytes = 0
        self.tail: list[str] = []

    def run(self, launch: spawn.Launch, progress: Progress | None, gate: Gate | None) -> Ended:
        """Run it to its end, and then to the end of everything it left behind.

        Raises:
            Failed: `cannot_start`, `output_limit`.
        """
        child = spawn.start(launch)
        self._reaper.expect(child.pid)
        self._attach(child, progress, gate)
        while self._reaper.status is None:
            self._once()
        self._finish()
        if self._over:
            raise Failed("output_limit", "the program wrote more output than its limit")
        status = self._reaper.status
        if os.WIFSIGNALED(status):
            return Ended(None, os.WTERMSIG(status))
        return Ended(os.WEXITSTATUS(status), None)

    def _attach(self, child: spawn.Child, progress: Progress | None, gate: Gate | None) -> None:
        self._streams = {child.stdout: "stdout", child.stderr: "stderr"}
        for descriptor in self._streams:
            fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_NONBLOCK)
            self._poll.register(descriptor, select.POLLIN)
        self._handle(self._control.fileno(), self._on_control)
        self._handle(self._reaper.fileno(), self._reaper.reap)
        if progress is not None:
            self._progress = progress
        if gate is not None and child.listener is not None:
            self._gate = gate
            gate.attach(child.listener)
            self._handle(child.listener, gate.notified)

    def _handle(self, descriptor: int, handler: Callable[[], None]) -> None:
        self._handlers[descriptor] = handler
        self._poll.register(descriptor, select.POLLIN)

    def _once(self) -> None:
        """Wait for something to happen, and deal with it."""
        self._balance()
        for descriptor, events in self._poll.poll(self._timeout()):
            if descriptor in self._streams:
                self._read(descriptor)
            elif descriptor in self._handlers:
                self._dispatch(descriptor, events)
        self._batch.flush_if_due()
        if self._progress is not None:
            self._progress.read_if_due()
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._reaper.signal_all(SIGKILL)
            self._kill_at = time.monotonic() + KILL_ROUND_SECONDS

    def _dispatch(self, descriptor: int, events: int) -> None:
        if descriptor == self._control.fileno() and events & select.POLLOUT:
            self._control.flush()
        if events & ~select.POLLOUT:
            self._handlers[descriptor]()
        if events & select.POLLHUP and self._gate is not None and descriptor == self._gate.listener:
            self._poll.unregister(descriptor)  # nobody is left under the filter
            del self._handlers[descriptor]

    def _balance(self) -> None:
        """Stop reading the program while the server is behind: its pipe fills, and it waits."""
        wanted = select.POLLIN | (select.POLLOUT if self._control.backlog else 0)
        self._poll.modify(self._control.fileno(), wanted)
        pause = self._control.backlog > HIGH_WATER
        if pause != self._paused:
            self._paused = pause
            for descriptor in self._streams:
                if pause:
                    self._poll.unregister(descriptor)
                else:
                    self._poll.register(descriptor, select.POLLIN)

    def _timeout(self) -> float | None:
        """Milliseconds until a timer is due; None when only events count."""
        progress = self._progress.due_in() if self._progress is not None else None
        kill = None if self._kill_at is None else max(0.0, self._kill_at - time.monotonic())
        due = [seconds for seconds in (self._batch.due_in(), progress, kill) if seconds is not None]
        return min(due) * 1000 + 0.5 if due else None

    def _on_control(self) -> None:
        for message in self._control.receive():
            if message["t"] == "terminate":
                self.terminate()
            elif message["t"] == "dialled" and self._gate is not None:
                self._gate.dialled(message)

    def terminate(self) -> None:
        """SIGTERM to all the program's processes now, SIGKILL after the grace period."""
        if not self.terminated:
            self.terminated = True
            self._kill_at = time.monotonic() + self._grace
            self._reaper.signal_all(SIGTERM)

    def _read(self, descriptor: int) -> bool:
        """Take one chunk of output; False at its end, or when there is none now."""
        try:
            data = os.read(descriptor, READ_BYTES)
        except BlockingIOError:
            return False
        name = self._streams[descriptor]
        if not data:
            self._close(descriptor)
            return False
        self.output_bytes += len(data)
        self._room -= len(data) + protocol.LINE_COST * data.count(b"\n")
        if self._room < 0:
            self._stop_flood()
            data = data[: max(0, len(data) + self._room)]
        self._show(name, self._lines[name].feed(data))
        return True

    def _stop_flood(self) -> None:
        if not self._over:
            self._over = True
            self._kill_at = time.monotonic()  # at the end of this round, and again until all are dead

    def _close(self, descriptor: int) -> None:
        if not self._paused:
            self._poll.unregister(descriptor)
        name = self._streams.pop(descriptor)
        os.close(descriptor)
        self._show(name, self._lines[name].finish())

    def _show(self, name: str, lines: list[str]) -> None:
        if lines:
            if self._rename is not None:
                self.tail = [*self.tail, *lines][-TAIL_LINES:]
            self._batch.add(self._rename or name, lines)
            self._batch.flush_if_due()

    def _send_lines(self, lines: list[list[object]]) -> None:
        self._control.send({"t": "log", "lines": lines})

    def _finish(self) -> None:
        """The program is gone: end what it left, read what it wrote, in bounded time and memory."""
        self._reaper.end_all()
        for descriptor in list(self._streams):
            while descriptor in self._streams and not self._over and self._read(descriptor):
                self._control.drain(below=HIGH_WATER)
            if descriptor in self._streams:
                self._close(descriptor)
        self._batch.flush()
        if self._progress is not None:
            self._progress.finish()
        if self._gate is not None:
            self._gate.close()
