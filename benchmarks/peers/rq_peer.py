"""RQ as it comes: `rq worker`, a fork per job, on the same Valkey binary, through a unix socket.

It isolates nothing: a job is a fork of the worker, with its memory, environment, files and network.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue, Worker
from rq_jobs import trivial

from sfp_server.instance import binaries

PATIENCE = 60.0


class RqPeer:
    """A Valkey and `workers` RQ workers below `base`; ended with the block."""

    def __init__(self, base: Path, workers: int) -> None:
        self._socket = base / "v.sock"
        self._base = base
        self._count = workers
        self._processes: list[subprocess.Popen[bytes]] = []
        self._redis = Redis(unix_socket_path=str(self._socket))
        self._queue = Queue(connection=self._redis)

    def __enter__(self) -> Self:
        self._base.mkdir(exist_ok=True)
        valkey = [str(binaries.valkey()), "--port", "0", "--unixsocket", str(self._socket), "--save", "", "--dir"]
        self._spawn([*valkey, str(self._base)], "valkey")
        self._until(self._answers, "Valkey")
        for number in range(self._count):
            rq = str(Path(sys.executable).with_name("rq"))
            self._spawn([rq, "worker", "--quiet", "--url", f"unix://{self._socket}"], f"worker-{number}")
        self._until(lambda: len(Worker.all(connection=self._redis)) == self._count, "the RQ workers")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process in reversed(self._processes):
            process.terminate()
        for process in reversed(self._processes):
            process.wait(timeout=20)
        self._redis.close()

    def run(self) -> float:
        """Seconds from enqueueing a job to having its result, waiting on its result stream (RQ's fastest way)."""
        began = time.perf_counter()
        result = self._queue.enqueue(trivial).latest_result(timeout=int(PATIENCE))
        seconds = time.perf_counter() - began
        if result is None or result.return_value != 0:
            raise RuntimeError("a trivial RQ job did not end well")
        return seconds

    def throughput(self, count: int) -> float:
        """Jobs per second, from the first enqueue to the last result."""
        began = time.perf_counter()
        jobs = [self._queue.enqueue(trivial) for _ in range(count)]
        for job in jobs:
            result = job.latest_result(timeout=int(PATIENCE))
            if result is None or result.return_value != 0:
                raise RuntimeError("a trivial RQ job did not end well")
        return count / (time.perf_counter() - began)

    def _spawn(self, argv: list[str], name: str) -> None:
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parent)}
        with (self._base / f"{name}.log").open("wb") as log:
            self._processes.append(
                subprocess.Popen(argv, env=environment, cwd=self._base, stdout=log, stderr=subprocess.STDOUT)
            )

    def _answers(self) -> bool:
        try:
            return bool(self._redis.ping())
        except RedisError:
            return False

    @staticmethod
    def _until(condition: object, what: str) -> None:
        assert callable(condition)
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise SystemExit(f"{what} did not come up")
            time.sleep(0.05)
