"""What a client can do with tasks. Every change tells its event in the same transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any
from uuid import UUID

import msgspec

from sfp_server.actor import Actor
from sfp_server.audit import service as audit
from sfp_server.credentials.integrations import require_integrations
from sfp_server.credentials.service import require_secrets
from sfp_server.db.database import Row, Tx
from sfp_server.db.queries import load
from sfp_server.errors import (
    AlreadyFinal,
    Conflict,
    FieldError,
    Forbidden,
    Malformed,
    NotFinished,
    NotFound,
    QuotaExceeded,
    Unprocessable,
)
from sfp_server.settings import Settings
from sfp_server.tasks.kind import Kind, Kinds
from sfp_server.tasks.model import OTHERS, Status
from sfp_server.tasks.recurrence import rhythm_of
from sfp_server.tasks.wire import LimitsBody, RecurrenceConfig, SalesforceCredential, SubmitTask
from sfp_server.web.wire import convert

SQL = load("sfp_server.tasks", "tasks.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A checked `POST /tasks` body: its kind is known and its data fits."""

    body: SubmitTask
    kind: Kind[Any]
    data: msgspec.Struct
    #: where it stands in the request, as in `tasks[3].`
    at: str = ""


def check(body: SubmitTask, kinds: Kinds, settings: Settings, *, at: str = "") -> Submission:
    """Check what can be checked without the database.

    Args:
        at: where the body stands in the request, for the paths of errors, as in `tasks[3].`.

    Raises:
        Malformed: unknown type, or data that does not fit its schema (with paths below `data`).
        Unprocessable: limits above the instance's, or what this release cannot do.
    """
    kind = kinds.get(body.type)
    if kind is None:
        known = ", ".join(sorted(kinds))
        raise Malformed(
            f"there is no task type {body.type!r}; known: {known}",
            errors=(FieldError(path=f"{at}type", message=f"must be one of: {known}"),),
        )
    _check_limits(body.limits, settings, at=at)
    for number, credential in enumerate(body.credentials):
        if isinstance(credential, SalesforceCredential):
            raise _impossible(f"{at}credentials[{number}]", "this release leases no credentials of type salesforce")
    return Submission(body=body, kind=kind, data=convert(body.data, kind.data, at=f"{at}data"), at=at)


def _impossible(path: str, message: str) -> Unprocessable:
    return Unprocessable(f"{path}: {message}", errors=(FieldError(path=path, message=message),))


def _check_limits(limits: LimitsBody | None, settings: Settings, *, at: str) -> None:
    ceilings = {
        "memoryMb": settings.worker_memory_mb,
        "diskMb": settings.worker_disk_mb,
        "processes": settings.worker_processes,
        "cpuSeconds": settings.worker_cpu_seconds,
    }
    named = msgspec.to_builtins(limits or LimitsBody())
    for name, ceiling in ceilings.items():
        wanted = named.get(name)
        if wanted is not None and ceiling is not None and wanted > ceiling:
            raise _impossible(f"{at}limits.{name}", f"{wanted} is above this instance's {ceiling}")


async def submit(tx: Tx, actor: Actor, submission: Submission, settings: Settings, *, request_id: str) -> Row:
    """Store a task; it runs if, and only if, this transaction commits.

    Raises:
        UnknownSecret: it declares a secret that the team does not have.
        Unprocessable: its input artifact does not exist, or its series would never run.
    """
    stored = await _stored(tx, actor, submission, settings, request_id)
    row = await tx.one(SQL["submit"], *stored.values, True)
    assert row is not None  # INSERT … RETURNING
    await _add_schedule(tx, row, submission.body, stored)
    return row


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    """What the statement `submit` stores of a submission, and when a series runs first."""

    values: tuple[Any, ...]
    first_run: datetime | None


async def _stored(tx: Tx, actor: Actor, submission: Submission, settings: Settings, request_id: str) -> _Stored:
    body, kind, at = submission.body, submission.kind, submission.at
    await _require_credentials(tx, msgspec.to_builtins(body.credentials), at=f"{at}credentials")
    for artifact_id in kind.inputs(submission.data):
        if await tx.one(SQL["get_artifact"], artifact_id) is None:
            raise _impossible(f"{at}data", f"there is no artifact {artifact_id}")
    first_run = await _first_run(tx, body, at=at)
    retry = body.retry_config
    limits = msgspec.to_builtins(body.limits or LimitsBody())
    values = (
        body.type,
        msgspec.to_builtins(submission.data),
        str(body.priority or kind.queue),
        body.schedule_type,
        body.labels,
        first_run or body.scheduled_for,
        retry.max_attempts if retry else 1,
        msgspec.to_builtins(retry) if retry else None,
        body.timeout_seconds or kind.timeout_seconds or settings.default_timeout_seconds,
        body.queue_timeout_seconds,
        body.lock_duration / 1000 if body.lock_duration else settings.lease_seconds,
        body.concurrency_key,
        body.runtime,
        body.network or str(kind.network),
        {name: value for name, value in limits.items() if value is not None},
        msgspec.to_builtins(body.credentials),
        actor.label,
        actor.name,
        request_id,
        None,
        body.toolchain or kind.toolchain,
    )
    return _Stored(values=values, first_run=first_run)


async def _require_credentials(tx: Tx, declared: Sequence[Mapping[str, Any]], *, at: str) -> None:
    """Raises UnknownSecret, UnknownIntegration for what the team does not have."""
    await require_secrets(tx, [item["name"] for item in declared if item["type"] == "secret"], at=at)
    integrations = [(item["provider"], item.get("project")) for item in declared if item["type"] == "integration"]
    await require_integrations(tx, integrations, at=at)


async def _add_schedule(tx: Tx, row: Row, body: SubmitTask, stored: _Stored) -> None:
    if body.recurrence_config is not None:
        config = msgspec.to_builtins(body.recurrence_config)
        await tx.execute(SQL["add_schedule"], row["id"], config, stored.first_run)


async def _first_run(tx: Tx, body: SubmitTask, *, at: str) -> datetime | None:
    """When a recurring task runs first; None for other tasks. Raises Unprocessable when it never would."""
    config = body.recurrence_config
    if config is None:
        return None
    now: datetime = await tx.value(SQL["now"])
    first = next(rhythm_of(msgspec.to_builtins(config), now).after(_just_before(config, now)), None)
    if first is None:
        raise _impossible(f"{at}recurrenceConfig.endAt", "no run lies before it")
    return first


def _just_before(config: RecurrenceConfig, now: datetime) -> datetime:
    """An interval begins with a run; a cron expression says itself when."""
    begins_with_a_run = config.interval_seconds is not None or (config.start_at is not None and config.start_at > now)
    start = max(config.start_at, now) if config.start_at else now
    return start - timedelta(microseconds=1) if begins_with_a_run and start >= now else now


async def require_room(tx: Tx, settings: Settings, *, more: int = 1) -> None:
    """Raises QuotaExceeded when the team would have more tasks waiting than it may."""
    limit = settings.team_pending_max
    if limit and await tx.value(SQL["waiting"], limit + 1) + more > limit:
        raise QuotaExceeded(f"the team may have {limit} tasks waiting; wait until some have run", retry_after=30)


async def submit_all(
    tx: Tx, actor: Actor, submissions: Sequence[Submission], settings: Settings, *, request_id: str
) -> list[Row]:
    """Store many tasks, all or none; their events are told at once. Raises as `submit` does."""
    await require_room(tx, settings, more=len(submissions))
    stored = [await _stored(tx, actor, submission, settings, request_id) for submission in submissions]
    rows = await tx.many(SQL["submit"], [(*one.values, False) for one in stored])
    for row, submission, one in zip(rows, submissions, stored, strict=True):
        await _add_schedule(tx, row, submission.body, one)
    await tx.all(SQL["tell_created"], [row["id"] for row in rows])
    return list(rows)


async def retry(tx: Tx, actor: Actor, task_id: UUID, *, request_id: str) -> Row:
    """A new task with the input of a finished one, linked to it.

    Raises NotFound, NotFinished, Forbidden, UnknownSecret, Conflict (a series).
    """
    old = await get(tx, task_id)
    if old["schedule_type"] == "recurring":
        raise Conflict("a series is not retried: retry one of its runs, or submit it again")
    if not Status(old["status"]).is_final:
        raise NotFinished(f"the task is {old['status']}; it can be retried when it has ended")
    if old["created_by"] != actor.label and OTHERS not in actor.scopes:
        raise Forbidden("only an owner or an application may retry somebody else's task")
    await _require_credentials(tx, old["credentials"], at="credentials")
    row = await tx.one(SQL["copy"], task_id, actor.label, actor.name, request_id)
    assert row is not None  # `result` found it
    return row


async def retries(tx: Tx, task_id: UUID) -> list[UUID]:
    """The tasks that repeat this one, first to last."""
    return [row["id"] for row in await tx.all(SQL["retries"], task_id)]


async def preview(tx: Tx, config: RecurrenceConfig, count: int) -> list[datetime]:
    """The next runs that a rhythm would have, by the database's clock."""
    now: datetime = await tx.value(SQL["now"])
    rhythm = rhythm_of(msgspec.to_builtins(config), now)
    return list(islice(rhythm.after(_just_before(config, now)), min(count, config.max_runs or count)))


async def schedule(tx: Tx, task_id: UUID) -> Row | None:
    """The rhythm of a recurring task; None for others."""
    return await tx.one(SQL["schedule"], task_id)


async def stop_recurring(tx: Tx, actor: Actor, task_id: UUID) -> None:
    """End a series; runs under way go on. Raises NotFound, Forbidden, AlreadyFinal, Conflict (not recurring)."""
    if await tx.one(SQL["lock"], task_id) is not None and await schedule(tx, task_id) is None:
        raise Conflict("the task is not recurring: cancel it with DELETE")
    await cancel(tx, actor, task_id)


async def instances(tx: Tx, task_id: UUID, *, after: UUID | None, limit: int) -> Sequence[Row]:
    """Runs of a series, newest first. Raises NotFound, Conflict."""
    await get(tx, task_id)
    if await schedule(tx, task_id) is None:
        raise Conflict("the task is not recurring")
    return await tx.all(SQL["instances"], task_id, after, limit)


async def set_queue(tx: Tx, actor: Actor, name: str, *, slots: int | None, paused: bool | None) -> None:
    """Change a queue while it runs; what runs in it finishes. Audited: it concerns every team."""
    await tx.execute(SQL["set_queue"], name, slots, paused)
    await audit.record(tx, actor.label, "queue.changed", f"queue:{name}", {"slots": slots, "paused": paused})
    await tx.execute(SQL["wake_dispatchers"], name)


async def get(tx: Tx, task_id: UUID) -> Row:
    """One task of the actor's team. Raises NotFound."""
    row = await tx.one(SQL["get"], task_id)
    if row is None:
        raise NotFound(f"there is no task {task_id}")
    return row


async def attempts(tx: Tx, task_id: UUID) -> Sequence[Row]:
    """The attempts of a task, first to last."""
    return await tx.all(SQL["attempts"], task_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What a list of tasks shows; None: all."""

    status: Status | None = None
    type: str | None = None
    priority: str | None = None
    labels: Mapping[str, str] | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


async def listed(tx: Tx, wanted: Filter, *, after: UUID | None, limit: int) -> Sequence[Row]:
    """Tasks of the actor's team, newest first."""
    return await tx.all(
        SQL["list"],
        wanted.status,
        wanted.type,
        wanted.priority,
        wanted.labels,
        wanted.created_after,
        wanted.created_before,
        after,
        limit,
    )


async def result(tx: Tx, task_id: UUID) -> Row:
    """A finished task; of a recurring one its latest run. Raises NotFound, NotFinished."""
    row = await get(tx, task_id)
    series = await schedule(tx, task_id) if row["schedule_type"] == "recurring" else None
    if series is not None:
        if series["latest_run"] is None:
            raise NotFinished("the series has not run yet")
        row = await get(tx, series["latest_run"])
    if not Status(row["status"]).is_final:
        raise NotFinished(f"the task is {row['status']}; ask again when it has finished, or follow task:{task_id}")
    return row


async def cancel(tx: Tx, actor: Actor, task_id: UUID) -> Status:
    """End a pending task at once; ask the worker of an active one to end.

    Returns the status after this call: `cancelled`, or `active` until the worker has ended.
    Raises NotFound, Forbidden (somebody else's), AlreadyFinal.
    """
    row = await tx.one(SQL["lock"], task_id)
    if row is None:
        raise NotFound(f"there is no task {task_id}")
    if row["created_by"] != actor.label and OTHERS not in actor.scopes:
        raise Forbidden("only an owner or an application may cancel somebody else's task")
    status = Status(row["status"])
    if status.is_final:
        raise AlreadyFinal(f"the task is already {status}")
    if status is Status.ACTIVE:
        await tx.execute(SQL["ask_to_cancel"], task_id, actor.label)
        await tx.execute(SQL["wake_canceller"], task_id)
        return Status.ACTIVE
    error = {"code": "cancelled", "message": "cancelled before it started", "retryable": False}
    await tx.execute(SQL["stop_schedule"], task_id)
    await tx.one(SQL["cancel_pending"], task_id, actor.label, error)
    await tx.all(SQL["free_key"], task_id)
    return Status.CANCELLED


async def logs(
    tx: Tx,
    task_id: UUID,
    *,
    after: int,
    since: datetime | None,
    until: datetime | None,
    limit: int,
    attempt: int | None = None,
) -> Sequence[Row]:
    """Log lines of a task after number `after`, of one attempt or of all. Raises NotFound."""
    await get(tx, task_id)
    return await tx.all(SQL["logs"], task_id, after, since, until, limit, attempt)


async def delete_logs(tx: Tx, actor: Actor, task_id: UUID) -> int:
    """Forget what a finished task logged; answers how many lines. Raises NotFound, NotFinished."""
    await result(tx, task_id)
    deleted = await tx.execute(SQL["delete_logs"], task_id)
    await audit.record(tx, actor.label, "logs.deleted", f"task:{task_id}", {"lines": deleted})
    return deleted


async def queues(tx: Tx) -> Sequence[Row]:
    """The queues with their depth, as the actor's team sees it."""
    return await tx.all(SQL["queues"])
