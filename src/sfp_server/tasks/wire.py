"""Bodies of the task routes, in and out. A task row never leaves as it is: each answer names its fields."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from sfp_server.db.database import Row
from sfp_server.tasks.model import Queue, Status
from sfp_server.web.wire import Wire

_EnvName = Annotated[str, Meta(pattern="^[A-Za-z_][A-Za-z0-9_]*$", max_length=255)]
_Seconds = Annotated[float, Meta(gt=0, le=7 * 24 * 3600)]
_Text = Annotated[str, Meta(min_length=1, max_length=255)]


class SecretCredential(Wire, tag_field="type", tag="secret"):
    """A stored secret, put into the task's environment."""

    name: _Text
    env: _EnvName

    def __post_init__(self) -> None:
        if self.env.startswith("SFP_"):
            raise ValueError("env must not begin with SFP_: such names are the worker's")


class SalesforceCredential(Wire, tag_field="type", tag="salesforce"):
    """A short-lived access token of a registered org."""

    org: _Text
    alias: _Text | None = None


class IntegrationCredential(Wire, tag_field="type", tag="integration"):
    """A credential of a connected provider."""

    provider: _Text
    project: _Text | None = None


Credential = SecretCredential | SalesforceCredential | IntegrationCredential


class RetryConfig(Wire):
    """How failed attempts are tried again."""

    max_attempts: Annotated[int, Meta(ge=1, le=100)] = 1
    backoff: Literal["exponential", "fixed"] = "exponential"
    delay_seconds: Annotated[float, Meta(ge=0, le=86400)] = 5.0
    max_delay_seconds: Annotated[float, Meta(ge=0, le=86400)] = 300.0
    jitter: bool = True


class LimitsBody(Wire, omit_defaults=True):
    """Ceilings of one task; not above the instance's."""

    memory_mb: Annotated[int, Meta(ge=32)] | None = None
    disk_mb: Annotated[int, Meta(ge=1)] | None = None
    processes: Annotated[int, Meta(ge=4)] | None = None
    cpu_seconds: Annotated[int, Meta(ge=1, le=7 * 24 * 3600)] | None = None


class SubmitTask(Wire):
    """Body of `POST /tasks`. `data` is checked against the type's own schema."""

    type: Annotated[str, Meta(min_length=1, max_length=100)]
    data: dict[str, Any]
    priority: Queue | None = None
    schedule_type: Literal["immediate", "scheduled", "recurring"] = "immediate"
    scheduled_for: Annotated[datetime, Meta(tz=True)] | None = None
    recurrence_config: dict[str, Any] | None = None
    retry_config: RetryConfig | None = None
    timeout_seconds: _Seconds | None = None
    queue_timeout_seconds: _Seconds | None = None
    lock_duration: Annotated[int, Meta(ge=3000, le=3_600_000, description="worker lease, milliseconds")] | None = None
    concurrency_key: _Text | None = None
    labels: Annotated[
        dict[Annotated[str, Meta(min_length=1, max_length=63)], Annotated[str, Meta(max_length=255)]],
        Meta(max_length=32),
    ] = msgspec.field(default_factory=dict[str, str])
    runtime: Literal["sandbox", "process", "container", "kubernetes"] | None = None
    network: Literal["none", "egress"] | None = None
    limits: LimitsBody | None = None
    credentials: Annotated[list[Credential], Meta(max_length=50)] = msgspec.field(default_factory=list[Credential])

    def __post_init__(self) -> None:
        names = [item.env for item in self.credentials if isinstance(item, SecretCredential)]
        if len(set(names)) != len(names):
            raise ValueError("credentials: two of them use the same env name")
        if self.schedule_type == "scheduled" and self.scheduled_for is None:
            raise ValueError("scheduleType scheduled needs scheduledFor")
        if self.schedule_type != "scheduled" and self.scheduled_for is not None:
            raise ValueError("scheduledFor goes with scheduleType scheduled")
        if self.scheduled_for is not None and not 1 < self.scheduled_for.year < 9999:
            raise ValueError("scheduledFor lies outside the calendar")


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
    started_at: datetime
    ended_at: datetime | None
    exit_code: int | None
    signal: int | None
    error: ErrorAnswer | None
    usage: dict[str, Any] | None


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
    network: str
    limits: dict[str, int]
    credentials: list[dict[str, Any]]
    actor: str
    cancel_requested_at: datetime | None
    attempts: list[AttemptAnswer]
    channel: str
    links: Links


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


def _reason(row: Row) -> tuple[str | None, str | None]:
    if row.get("nobody_runs"):
        return "no_runtime", "no dispatcher is running"
    return row["reason"], row["reason_detail"]


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
    reason, detail = _reason(row)
    return {
        "operation_id": row["id"],
        "type": row["type"],
        "status": Status(row["status"]),
        "reason": reason,
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


def detail(row: Row, attempts: Sequence[Row]) -> TaskDetail:
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
        network=row["network"],
        limits=row["limits"],
        credentials=row["credentials"],
        actor=row["created_by"],
        cancel_requested_at=row["cancel_requested_at"],
        attempts=[_attempt(attempt) for attempt in attempts],
        channel=f"task:{row['id']}",
        links=links(row["id"]),
    )


def _attempt(row: Row) -> AttemptAnswer:
    fields = {name: row[name] for name in AttemptAnswer.__struct_fields__ if name != "error"}
    return AttemptAnswer(**fields, error=msgspec.convert(row["error"], ErrorAnswer) if row["error"] else None)


def log_entry(row: Row) -> LogEntry:
    return LogEntry(seq=row["seq"], at=row["at"], **row["data"])


def artifact(row: Row) -> ArtifactAnswer:
    return ArtifactAnswer(**{name: row[name] for name in ArtifactAnswer.__struct_fields__})
