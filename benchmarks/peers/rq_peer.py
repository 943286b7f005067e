"""RQ as it comes: `rq worker`, a fork per job, on the same Valkey binary, through a unix socket.

It isolates nothing: a job is a fork of the worker, with its memory, environment, files and network.
"""

import time
from pathlib import Path

from peer import PATIENCE, WithValkey, check, program
from rq import Queue, Worker
from rq_jobs import trivial


class RqPeer(WithValkey):
    """`workers` RQ workers."""

    def __init__(self, base: Path, workers: int) -> None:
        super().__init__(base)
        self._count = workers
        self._queue = Queue(connection=self.redis)

    def open(self) -> None:
        super().open()
        for number in range(self._count):
            self.spawn([program("rq"), "worker", "--quiet", "--url", f"unix://{self.socket}"], f"worker-{number}")
        self.until(lambda: len(Worker.all(connection=self.redis)) == self._count, "the RQ workers")

    def run(self) -> float:
        """Waiting on the job's result stream, RQ's fastest way."""
        began = time.perf_counter()
        result = self._queue.enqueue(trivial).latest_result(timeout=int(PATIENCE))
        seconds = time.perf_counter() - began
        check(result and result.return_value)
        return seconds

    def throughput(self, count: int) -> float:
        began = time.perf_counter()
        jobs = [self._queue.enqueue(trivial) for _ in range(count)]
        for job in jobs:
            result = job.latest_result(timeout=int(PATIENCE))
            check(result and result.return_value)
        return count / (time.perf_counter() - began)
