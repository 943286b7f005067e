"""Celery, prefork with one task per process, broker and results on the same Valkey binary.

Gossip, mingling and heartbeats are off, results are waited for by subscription: its fastest way. It isolates nothing.
"""

import gc
import time
from pathlib import Path
from typing import Any

from celery import Celery
from peer import PATIENCE, WithValkey, check, program


class CeleryPeer(WithValkey):
    """One Celery worker for `workers` tasks at once, each in a pool process that is replaced after it.

    Celery replaces one when it hears of its end, at the latest after 5 s: so the pool has eight, as a stock.
    """

    def __init__(self, base: Path, workers: int) -> None:
        super().__init__(base)
        self._count = max(8, workers)
        url = f"redis+socket://{self.socket}"
        self._app = Celery("bench", broker=url, backend=url, set_as_current=False)

    def open(self) -> None:
        super().open()
        quiet = ["--loglevel=ERROR", "--without-gossip", "--without-mingle", "--without-heartbeat"]
        pool = ["--pool=prefork", f"--concurrency={self._count}", "-O", "fair"]
        self.spawn(
            [program("celery"), "-A", "celery_jobs", "worker", *quiet, *pool],
            "worker",
            SFP_BENCH_SOCKET=str(self.socket),
            C_FORCE_ROOT="1",
        )
        self.until(lambda: self._app.control.ping(timeout=0.5), "the Celery worker")

    def close(self) -> None:
        gc.collect()  # results say goodbye to Valkey when they are forgotten
        self._app.backend.result_consumer.stop()
        self._app.close()
        super().close()

    def run(self) -> float:
        began = time.perf_counter()
        status = self._send().get(timeout=PATIENCE)
        seconds = time.perf_counter() - began
        check(status)
        return seconds

    def throughput(self, count: int) -> float:
        began = time.perf_counter()
        waiting = [self._send() for _ in range(count)]
        for result in waiting:
            check(result.get(timeout=PATIENCE * 4))
        return count / (time.perf_counter() - began)

    def _send(self) -> Any:
        return self._app.send_task("celery_jobs.trivial")
