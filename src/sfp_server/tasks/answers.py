"""Answers of the task routes. A task row never leaves as it is: each answer names its fields."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any
from uuid import UUID

import msgspec

from sfp_server.db.database import Row
from sfp_server.tasks.model import Queue, Status
from sfp_server.tasks.recurrence import rhythm_of
from sfp_server.tasks.wire import RecurrenceConfig, RetryConfig
from sfp_server.web.wire import Wire


class Links(Wire):
    status: str
    result: str
    logs: str
    events: str


class ErrorAnswer(Wire):
    code: str
    message: str
    retryable: bool = False


class SubmittedTask(Wire):
    """Answer of `POST /tasks`."""

    operation_id: UUID
    type: str
    status: Status
    reason: str | None
    channel: str
    created_at: datetime
    links: Links


class SubmittedTasks(Wire):
    items: list[SubmittedTask]


class TaskStatus(Wire):
    operation_id: UUID
    type: str
    status: Status
    reason: str | None
    reason_detail: str | None
    progress: int
    step: str
    attempt: int
    error: ErrorAnswer | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class TaskResult(TaskStatus):
    result: dict[str, Any] | None


class TaskRow(TaskStatus):
    """A task in a list."""

    priority: Queue
    labels: dict[str, str]
    created_by: str


class AttemptAnswer(Wire):
    attempt: int
    status: str
    queue: str
    runtime: str
    #: which dispatcher ran it, and its worker's name in process lists, cgroups and the dispatcher's log
    dispatcher_id: UUID
    worker: str
    started_at: datetime
    ended_at: datetime | None
    exit_code: int | None
    signal: int | None
    error: ErrorAnswer | None
    usage: dict[str, Any] | None
    #: its log lines have numbers above `firstSeq`, up to `lastSeq`
    first_seq: int | None
    last_seq: int | None


class Recurrence(Wire):
    """A series: its rhythm, what it made, and when it will run next."""

    config: RecurrenceConfig
    runs: int
    skipped: int
    latest_run: UUID | None
    next_runs: list[datetime]


class TaskDetail(TaskRow):
    """Everything about a task; its data holds no secret: secrets are declared by name."""

    data: dict[str, Any]
    schedule_type: str
    scheduled_for: datetime | None
    timeout_seconds: float
    queue_timeout_seconds: float | None
    lock_duration: int
    retry_config: RetryConfig | None
    concurrency_key: str | None
    runtime: str | None
    toolchain: str | None
    network: str
    limits: dict[str, int]
    credentials: list[dict[str, Any]]
    actor: str
    cancel_requested_at: datetime | None
    attempts: list[AttemptAnswer]
    preemptions: int
    retry_of: UUID | None
    #: tasks that repeat this one
    retried_as: list[UUID]
    series_id: UUID | None
    recurrence: Recurrence | None
    channel: str
    links: Links


class ExplainReason(Wire):
    reason: str
    detail: str | None


class Estimate(Wire):
    p50: float
    p90: float


class ExplainAnswer(Wire):
    """Why a task is not running, most important first; estimates come from the queue's last 200 attempts."""

    operation_id: UUID
    status: Status
    reasons: list[ExplainReason]
    #: 1: next; None: not in line now
    position: int | None
    queue_pending: int | None
    queue_active: int | None
    queue_slots: int | None
    estimated_wait_seconds: Estimate | None
    estimated_start: dict[str, datetime] | None
    #: attempts that the estimate is made from
    sample: int


class Cancelled(Wire):
    message: str
    status: Status


class TypeAnswer(Wire):
    type: str
    description: str
    schema: dict[str, Any]
    credentials: list[str]
    default_timeout_seconds: int
    default_priority: Queue
    default_network: str


class TypesAnswer(Wire):
    items: list[TypeAnswer]


class LogEntry(Wire):
    seq: int
    at: datetime
    stream: str
    level: str
    message: str
    attempt: int


class LogsAnswer(Wire):
    entries: list[LogEntry]


class Deleted(Wire):
    deleted: int


class QueueAnswer(Wire):
    name: Queue
    slots: int
    paused: bool
    pending: int
    active: int


class RecurrencePreview(Wire):
    next_runs: list[datetime]


class QueuesAnswer(Wire):
    items: list[QueueAnswer]


class ArtifactAnswer(Wire):
    id: UUID
    name: str
    size: int
    sha256: str
    created_at: datetime


class ArtifactsAnswer(Wire):
    items: list[ArtifactAnswer]


def reason(row: Row) -> tuple[str | None, str | None]:
    """Why a task waits, and of what or for when."""
    if row.get("nobody_runs"):
        return "no_runtime", "no dispatcher is running"
    when = f"{row['due_at'].astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" if row["reason"] in {"scheduled", "retry"} else ""
    match row["reason"]:
        case "scheduled":
            return "scheduled", f"due at {when}"
        case "retry":
            return "retry", f"{row['reason_detail']}; the next is due at {when}"
        case "concurrency" | "queued" if row.get("held_by"):  # also before the dispatcher has seen it
            return "concurrency", f"the key {row['concurrency_key']} is held by task {row['held_by']}"
        case other:
            return other, row["reason_detail"]


def links(task_id: UUID) -> Links:
    base = f"/sfp/api/tasks/{task_id}"
    return Links(
        status=f"{base}/status", result=f"{base}/result", logs=f"/sfp/api/logs/{task_id}", events=f"{base}/events"
    )


def submitted(row: Row) -> SubmittedTask:
    return SubmittedTask(
        operation_id=row["id"],
        type=row["type"],
        status=Status(row["status"]),
        reason=row["reason"],
        channel=f"task:{row['id']}",
        created_at=row["created_at"],
        links=links(row["id"]),
    )


def _status_fields(row: Row) -> dict[str, Any]:
    why, detail = reason(row)
    return {
        "operation_id": row["id"],
        "type": row["type"],
        "status": Status(row["status"]),
        "reason": why,
        "reason_detail": detail,
        "progress": row["progress"],
        "step": row["step"],
        "attempt": row["attempt"],
        "error": msgspec.convert(row["error"], ErrorAnswer) if row["error"] else None,
        "created_at": row["created_at"],
        "started_at": row["started_at"],
        "finished_at": row["finished_at"],
    }


def status(row: Row) -> TaskStatus:
    return TaskStatus(**_status_fields(row))


def result(row: Row) -> TaskResult:
    return TaskResult(**_status_fields(row), result=row["result"])


def _row_fields(row: Row) -> dict[str, Any]:
    return {
        **_status_fields(row),
        "priority": Queue(row["priority"]),
        "labels": row["labels"],
        "created_by": row["created_by_name"],
    }


def in_list(row: Row) -> TaskRow:
    return TaskRow(**_row_fields(row))


def recurrence(row: Row, schedule: Row) -> Recurrence:
    """A series with its next five runs."""
    config = msgspec.convert(schedule["config"], RecurrenceConfig)
    upcoming: list[datetime] = []
    if schedule["next_at"] is not None:
        left = 5 if config.max_runs is None else min(5, config.max_runs - schedule["runs"])
        later = rhythm_of(schedule["config"], row["created_at"]).after(schedule["next_at"])
        upcoming = [schedule["next_at"], *islice(later, max(0, left - 1))]
    return Recurrence(
        config=config,
        runs=schedule["runs"],
        skipped=schedule["skipped"],
        latest_run=schedule["latest_run"],
        next_runs=upcoming,
    )


def detail(row: Row, *, attempts: Sequence[Row], schedule: Row | None, retries: list[UUID]) -> TaskDetail:
    return TaskDetail(
        **_row_fields(row),
        data=row["data"],
        schedule_type=row["schedule_type"],
        scheduled_for=row["due_at"] if row["schedule_type"] == "scheduled" else None,
        timeout_seconds=row["timeout_seconds"],
        queue_timeout_seconds=row["queue_timeout_seconds"],
        lock_duration=round(row["lease_seconds"] * 1000),
        retry_config=msgspec.convert(row["retry_config"], RetryConfig) if row["retry_config"] else None,
        concurrency_key=row["concurrency_key"],
        runtime=row["runtime"],
        toolchain=row["toolchain"],
        network=row["network"],
        limits=row["limits"],
        credentials=row["credentials"],
        actor=row["created_by"],
        cancel_requested_at=row["cancel_requested_at"],
        attempts=[_attempt(attempt) for attempt in attempts],
        preemptions=row["preemptions"],
        retry_of=row["retry_of"],
        retried_as=retries,
        series_id=row["series_id"],
        recurrence=recurrence(row, schedule) if schedule else None,
        channel=f"task:{row['id']}",
        links=links(row["id"]),
    )


def _attempt(row: Row) -> AttemptAnswer:
    fields = {name: row[name] for name in AttemptAnswer.__struct_fields__ if name != "error"}
    return AttemptAnswer(**fields, error=msgspec.convert(row["error"], ErrorAnswer) if row["error"] else None)


def queue(row: Row) -> QueueAnswer:
    return QueueAnswer(**{name: row[name] for name in QueueAnswer.__struct_fields__})


def log_entry(row: Row) -> LogEntry:
    return LogEntry(seq=row["seq"], at=row["at"], **row["data"])


def artifact(row: Row) -> ArtifactAnswer:
    return ArtifactAnswer(**{name: row[name] for name in ArtifactAnswer.__struct_fields__})
