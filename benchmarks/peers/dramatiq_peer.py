"""Dramatiq on the same Valkey binary: worker processes of one thread, each of which starts `true` as a subprocess.

Dramatiq has no process per task; a subprocess per task is the fairest that it offers. An idle worker looks for messages
every 2 ms (it would look ever more rarely), and results are waited for by a blocking read. It isolates nothing.
"""

import os
import time
from pathlib import Path
from typing import Any

from peer import PATIENCE, WithValkey, check, program


class DramatiqPeer(WithValkey):
    """`workers` Dramatiq processes."""

    def __init__(self, base: Path, workers: int) -> None:
        super().__init__(base)
        self._count = workers
        self._trivial: Any = None

    def open(self) -> None:
        super().open()
        os.environ["SFP_BENCH_SOCKET"] = str(self.socket)  # for the actor, made when it is imported
        import sys

        sys.modules.pop("dramatiq_jobs", None)  # another peer's socket
        from dramatiq_jobs import trivial

        quiet = ["--processes", str(self._count), "--threads", "1", "--skip-logging"]
        self.spawn([program("dramatiq"), *quiet, "dramatiq_jobs"], "worker", SFP_BENCH_SOCKET=str(self.socket))
        self._trivial = trivial
        self.run()

    def run(self) -> float:
        began = time.perf_counter()
        status = self._trivial.send().get_result(block=True, timeout=int(PATIENCE * 1000))
        seconds = time.perf_counter() - began
        check(status)
        return seconds

    def throughput(self, count: int) -> float:
        began = time.perf_counter()
        for message in [self._trivial.send() for _ in range(count)]:
            check(message.get_result(block=True, timeout=int(PATIENCE * 1000)))
        return count / (time.perf_counter() - began)
