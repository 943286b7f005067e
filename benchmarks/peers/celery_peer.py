"""Celery, prefork with one task per process, broker and results on the same Valkey binary.

Gossip, mingling and heartbeats are off, results are waited for by subscription: its fastest way. It isolates nothing.
"""

import os
import time
from pathlib import Path
from typing import Any

from peer import PATIENCE, WithValkey, check, program


class CeleryPeer(WithValkey):
    """One Celery worker with `workers` pool processes, each of which is replaced after its task."""

    def __init__(self, base: Path, workers: int) -> None:
        super().__init__(base)
        self._count = max(8, workers)
        self._trivial: Any = None

    def open(self) -> None:
        super().open()
        os.environ["SFP_BENCH_SOCKET"] = str(self.socket)  # for the application, made when it is imported
        from celery_jobs import app, trivial

        app.conf.update(broker_url=f"redis+socket://{self.socket}", result_backend=f"redis+socket://{self.socket}")
        quiet = ["--loglevel=ERROR", "--without-gossip", "--without-mingle", "--without-heartbeat"]
        pool = ["--pool=prefork", f"--concurrency={self._count}", "-O", "fair"]
        self.spawn(
            [program("celery"), "-A", "celery_jobs", "worker", *quiet, *pool],
            "worker",
            SFP_BENCH_SOCKET=str(self.socket),
            C_FORCE_ROOT="1",
        )
        self.until(lambda: app.control.ping(timeout=0.5), "the Celery worker")
        self._trivial = trivial

    def run(self) -> float:
        began = time.perf_counter()
        status = self._trivial.delay().get(timeout=PATIENCE)
        seconds = time.perf_counter() - began
        check(status)
        return seconds

    def throughput(self, count: int) -> float:
        began = time.perf_counter()
        waiting = [self._trivial.delay() for _ in range(count)]
        for result in waiting:
            check(result.get(timeout=PATIENCE * 4))
        return count / (time.perf_counter() - began)
