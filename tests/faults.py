"""Faults with names: a service that a test starts, kills, freezes and starts again."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sfp_server.instance import binaries


@dataclass
class Service:
    """A process of its own. `is_ready` says when it can be used; `start` waits for that."""

    argv: list[str]
    is_ready: Callable[[], bool]
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Service":
        assert self.process is None, "it runs already"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **self.environment}
            )
        deadline = time.monotonic() + 20
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.argv[0]} did not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.01)
        return self

    def kill(self) -> None:
        """`kill -9`: no chance to say or save anything."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to end. Stopping twice is fine."""
        self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """It neither answers nor goes away: connections stay open."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        self._send(signal.SIGCONT)

    def _send(self, number: signal.Signals) -> None:
        assert self.process is not None, "it does not run"
        self.process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(signal.SIGCONT)
            process.send_signal(number)
            process.wait(20)


def valkey(directory: Path) -> Service:
    """A Valkey on the unix socket `valkey.sock` in `directory`; not started yet."""
    socket = directory / "valkey.sock"
    argv = [str(binaries.valkey()), "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(directory)]
    return Service(argv, lambda: _answers(socket), directory / "valkey.log")


def _answers(socket: Path) -> bool:
    import valkey as client

    try:
        with client.Valkey(unix_socket_path=str(socket), socket_timeout=1) as connection:
            return bool(connection.ping())
    except (client.ValkeyError, OSError):
        return False
