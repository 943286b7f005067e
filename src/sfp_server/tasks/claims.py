"""Rows of a claim as what the engine works with."""

from collections.abc import Mapping
from typing import Any

from sfp_server.db.database import Row
from sfp_server.tasks.model import Claimed, Queue, Retry


def claimed(row: Row) -> Claimed:
    """A row of `claim`, `expired` or `abandoned` as what the engine works with."""
    return Claimed(
        id=row.get("id") or row["task_id"],
        team_id=row["team_id"],
        type=row.get("type", ""),
        data=row.get("data", {}),
        priority=Queue(row.get("priority", Queue.NORMAL)),
        attempt=row["attempt"],
        preemptions=row["preemptions"],
        retry=_retry(row),
        timeout_seconds=row.get("timeout_seconds", 0.0),
        lease_seconds=row.get("lease_seconds", 0.0),
        runtime=row.get("runtime"),
        toolchain=row.get("toolchain"),
        network=row.get("network", "none"),
        limits=row.get("limits", {}),
        credentials=tuple(row.get("credentials", ())),
    )


def _retry(row: Row) -> Retry:
    config: Mapping[str, Any] | None = row["retry_config"]
    if config is None:
        return Retry(max_attempts=row["max_attempts"])
    return Retry(
        max_attempts=row["max_attempts"],
        exponential=config["backoff"] == "exponential",
        delay_seconds=config["delaySeconds"],
        max_delay_seconds=config["maxDelaySeconds"],
        jitter=config["jitter"],
    )
