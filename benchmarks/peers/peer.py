"""What the peers share: a folder of their own, processes that end with the block, a Valkey without persistence."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from redis import Redis
from redis.exceptions import RedisError

from sfp_server.instance import binaries

#: seconds until a peer that does not answer is given up
PATIENCE = 60.0


class Measured(Protocol):
    """A peer while its block lasts. Each of its tasks starts `true` in a process of its own and answers its status."""

    def run(self) -> float:
        """Seconds from handing in a task to having its result."""
        ...

    def throughput(self, count: int) -> float:
        """Tasks per second, from the first one handed in to the last result."""
        ...


class Processes:
    """Starts processes below `base`, each with a log there; ends them with the block, the youngest first."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self.base.mkdir(exist_ok=True)
        try:
            self.open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def open(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        for process in reversed(self._processes):
            process.terminate()
        for process in reversed(self._processes):
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    def spawn(self, argv: Sequence[str], name: str, **environment: str) -> None:
        known = {"PATH": os.environ["PATH"], "HOME": str(self.base), "PYTHONPATH": str(Path(__file__).parent)}
        with (self.base / f"{name}.log").open("wb") as log:
            self._processes.append(
                subprocess.Popen(argv, env=known | environment, cwd=self.base, stdout=log, stderr=subprocess.STDOUT)
            )

    def until(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise SystemExit(f"{what} did not come up")
            time.sleep(0.05)


class WithValkey(Processes):
    """The same Valkey binary as ours, through a unix socket; it stores nothing on disk."""

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.socket = base / "v.sock"
        self.redis = Redis(unix_socket_path=str(self.socket))

    def open(self) -> None:
        valkey = [str(binaries.valkey()), "--port", "0", "--unixsocket", str(self.socket), "--save", "", "--dir"]
        self.spawn([*valkey, str(self.base)], "valkey")
        self.until(self._answers, "Valkey")

    def close(self) -> None:
        super().close()
        self.redis.close()

    def _answers(self) -> bool:
        try:
            return bool(self.redis.ping())
        except RedisError:
            return False


def program(name: str) -> str:
    """A peer's command, from our virtual environment."""
    return str(Path(sys.executable).with_name(name))


def check(status: object) -> None:
    if status != 0:
        raise RuntimeError(f"a trivial task did not end well: {status!r}")
