"""The Celery application of the workers and of the client; `SFP_BENCH_SOCKET` names Valkey's socket."""

import os
import subprocess

from celery import Celery

_VALKEY = "redis+socket://" + os.environ["SFP_BENCH_SOCKET"]

app = Celery("bench", broker=_VALKEY, backend=_VALKEY)
app.conf.update(
    worker_max_tasks_per_child=1,  # a process of its own for each task
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    worker_send_task_events=False,
    task_track_started=False,
    broker_connection_retry_on_startup=True,
)


@app.task
def trivial() -> int:
    return subprocess.run(["true"], check=False).returncode
