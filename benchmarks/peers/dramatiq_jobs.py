"""The Dramatiq actor of the workers and of the client; `SFP_BENCH_SOCKET` names Valkey's socket."""

import os
import subprocess
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

#: milliseconds: an idle worker looks this often, instead of ever more rarely, up to once a second
LOOK_MS = 2


class _Quick(RedisBroker):
    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> Any:
        return super().consume(queue_name, prefetch, min(timeout, LOOK_MS))


_VALKEY = "unix://" + os.environ["SFP_BENCH_SOCKET"]

broker = _Quick(url=_VALKEY)
broker.add_middleware(Results(backend=RedisBackend(url=_VALKEY)))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True, max_retries=0)
def trivial() -> int:
    return subprocess.run(["true"], check=False).returncode
