"""`/tasks`, `/logs`, `/queues`: parse → one use case → render."""

from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from sfp_server.actor import Actor
from sfp_server.db.database import Database
from sfp_server.errors import FieldError, Malformed
from sfp_server.settings import Settings
from sfp_server.tasks import service, wire
from sfp_server.tasks.kind import Kinds
from sfp_server.tasks.model import Queue, Status
from sfp_server.web.idempotency import once
from sfp_server.web.paging import DEFAULT_LIMIT, Cursor, Limit, Page, after, page
from sfp_server.web.wire import ApiRequest

_MAX_LABELS = 16
_Labels = Annotated[list[str] | None, QueryParameter(name="label", description="key:value, repeatable")]
_After = Annotated[datetime | None, QueryParameter(name="createdAfter")]
_Before = Annotated[datetime | None, QueryParameter(name="createdBefore")]
_From = Annotated[datetime | None, QueryParameter(name="from")]
_To = Annotated[datetime | None, QueryParameter(name="to")]
_Seq = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_LogLimit = Annotated[int, msgspec.Meta(ge=1, le=1000)]


@post("/tasks", opt={"scope": "tasks:write"}, status_code=201)
async def submit(
    request: ApiRequest,
    data: JSONBody[wire.SubmitTask],
    actor: NamedDependency[Actor],
    db: NamedDependency[Database],
    settings: NamedDependency[Settings],
    kinds: NamedDependency[Kinds],
) -> Response[Any]:
    """Submit a task. With an Idempotency-Key, twice makes one."""
    submission = service.check(data, kinds, settings)

    async def create() -> wire.SubmittedTask:
        row = await service.submit(tx, actor, submission, settings, request_id=request.scope["state"]["request_id"])
        return wire.submitted(row)

    async with db.transaction(actor) as tx:
        answer = await once(tx, actor, request, create)
    return answer.response()


@get("/tasks", opt={"scope": "tasks:read"})
async def list_tasks(
    actor: NamedDependency[Actor],
    db: NamedDependency[Database],
    status: FromQuery[Status | None] = None,
    type: FromQuery[str | None] = None,  # noqa: A002 (the contract's name)
    priority: FromQuery[Queue | None] = None,
    labels: _Labels = None,
    created_after: _After = None,
    created_before: _Before = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[wire.TaskRow]:
    """Tasks of the team, newest first."""
    wanted = service.Filter(
        status=status,
        type=type,
        priority=priority,
        labels=_labels(labels or []),
        created_after=_aware(created_after, "createdAfter"),
        created_before=_aware(created_before, "createdBefore"),
    )
    async with db.transaction(actor) as tx:
        rows = await service.listed(tx, wanted, after=after(cursor), limit=limit + 1)
    return page([wire.in_list(row) for row in rows], limit, key=lambda row: row.operation_id)


@get("/tasks/types", opt={"scope": "tasks:read"})
async def types(kinds: NamedDependency[Kinds], settings: NamedDependency[Settings]) -> wire.TypesAnswer:
    """What can be submitted, with the JSON Schema of its data."""
    return wire.TypesAnswer(
        items=[
            wire.TypeAnswer(
                type=kind.name,
                description=kind.summary,
                schema=kind.schema(),
                credentials=list(kind.credentials),
                default_timeout_seconds=kind.timeout_seconds or settings.default_timeout_seconds,
                default_priority=kind.queue,
                default_network=str(kind.network),
            )
            for kind in kinds.values()
        ]
    )


@get("/tasks/{task_id:uuid}", opt={"scope": "tasks:read"})
async def get_task(
    task_id: FromPath[UUID], actor: NamedDependency[Actor], db: NamedDependency[Database]
) -> wire.TaskDetail:
    """Everything about a task."""
    async with db.transaction(actor) as tx:
        return wire.detail(await service.get(tx, task_id), await service.attempts(tx, task_id))


@get("/tasks/{task_id:uuid}/status", opt={"scope": "tasks:read"})
async def get_status(
    task_id: FromPath[UUID], actor: NamedDependency[Actor], db: NamedDependency[Database]
) -> wire.TaskStatus:
    """Where a task is."""
    async with db.transaction(actor) as tx:
        return wire.status(await service.get(tx, task_id))


@get("/tasks/{task_id:uuid}/result", opt={"scope": "tasks:read"})
async def get_result(
    task_id: FromPath[UUID], actor: NamedDependency[Actor], db: NamedDependency[Database]
) -> wire.TaskResult:
    """How a task ended; 409 before it has."""
    async with db.transaction(actor) as tx:
        return wire.result(await service.result(tx, task_id))


@delete("/tasks/{task_id:uuid}", opt={"scope": "tasks:write"}, status_code=200)
async def cancel(
    task_id: FromPath[UUID], actor: NamedDependency[Actor], db: NamedDependency[Database]
) -> wire.Cancelled:
    """Cancel a task: a waiting one ends at once, a running one gets SIGTERM, a grace period, SIGKILL."""
    async with db.transaction(actor) as tx:
        status = await service.cancel(tx, actor, task_id)
    told = "the task is cancelled" if status is Status.CANCELLED else "the worker was asked to end"
    return wire.Cancelled(message=told, status=status)


@get("/logs/{task_id:uuid}", opt={"scope": "logs:read"})
async def get_logs(
    task_id: FromPath[UUID],
    actor: NamedDependency[Actor],
    db: NamedDependency[Database],
    since: _From = None,
    until: _To = None,
    after: _Seq = 0,
    limit: _LogLimit = 200,
) -> wire.LogsAnswer:
    """Log lines after number `after`, in order."""
    async with db.transaction(actor) as tx:
        rows = await service.logs(
            tx, task_id, after=after, since=_aware(since, "from"), until=_aware(until, "to"), limit=limit
        )
    return wire.LogsAnswer(entries=[wire.log_entry(row) for row in rows])


@delete("/logs/{task_id:uuid}", opt={"scope": "logs:delete"}, status_code=200)
async def delete_logs(
    task_id: FromPath[UUID], actor: NamedDependency[Actor], db: NamedDependency[Database]
) -> wire.Deleted:
    """Forget what a finished task logged."""
    async with db.transaction(actor) as tx:
        return wire.Deleted(deleted=await service.delete_logs(tx, task_id))


@get("/queues", opt={"scope": "queues:read"})
async def queues(actor: NamedDependency[Actor], db: NamedDependency[Database]) -> wire.QueuesAnswer:
    """Slots, and how many tasks of the team wait and run."""
    async with db.transaction(actor) as tx:
        rows = await service.queues(tx)
    return wire.QueuesAnswer(
        items=[wire.QueueAnswer(**{name: row[name] for name in wire.QueueAnswer.__struct_fields__}) for row in rows]
    )


def _labels(texts: list[str]) -> dict[str, str] | None:
    """`["pr:12"]` → `{"pr": "12"}`. Raises Malformed."""
    pairs = [text.partition(":") for text in texts]
    if len(pairs) > _MAX_LABELS or not all(key and separator for key, separator, _ in pairs):
        message = f"must be key:value, {_MAX_LABELS} times at most"
        raise Malformed(f"label: {message}", errors=(FieldError(path="label", message=message),))
    return {key: value for key, _, value in pairs} or None


def _aware(at: datetime | None, name: str) -> datetime | None:
    """The time as the database takes it: with a zone, and within its calendar in UTC. Raises Malformed."""
    if at is None:
        return None
    message = "needs a time zone, as in 2026-01-01T00:00:00Z"
    if at.tzinfo is not None:
        try:
            return at.astimezone(UTC)
        except OverflowError:
            message = "lies outside the calendar"
    raise Malformed(f"{name}: {message}", errors=(FieldError(path=name, message=message),))


ROUTES = [submit, list_tasks, types, get_task, get_status, get_result, cancel, get_logs, delete_logs, queues]
