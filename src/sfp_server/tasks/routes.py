"""`/tasks`, `/logs`, `/queues`: parse → one use case → render."""

import asyncio
from datetime import datetime
from typing import Annotated
from uuid import UUID

from litestar import Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from sfp_server.actor import Actor
from sfp_server.db.database import Database
from sfp_server.errors import AlreadyFinal, Conflict, FieldError, Malformed, NotFinished, NotFound, UnknownSecret
from sfp_server.identity.authenticate import Authenticator
from sfp_server.settings import Settings
from sfp_server.tasks import answers, explain, service, wire
from sfp_server.tasks.ends import Ends
from sfp_server.tasks.kind import Kinds
from sfp_server.tasks.model import OTHERS, Queue, Status
from sfp_server.web.guard import bearer
from sfp_server.web.idempotency import once
from sfp_server.web.paging import DEFAULT_LIMIT, Cursor, Limit, Page, after, page
from sfp_server.web.times import aware
from sfp_server.web.wire import ApiRequest

_MAX_LABELS = 16
#: bytes of a bulk submission
_BULK_BYTES = 8 * 1024 * 1024
_Labels = Annotated[list[str] | None, QueryParameter(name="label", description="key:value, repeatable")]
_After = Annotated[datetime | None, QueryParameter(name="createdAfter")]
_Before = Annotated[datetime | None, QueryParameter(name="createdBefore")]
_From = Annotated[datetime | None, QueryParameter(name="from")]
_To = Annotated[datetime | None, QueryParameter(name="to")]
#: seconds of a long poll
Wait = Annotated[float, QueryParameter(ge=0, le=30)]
_Seq = Annotated[int, QueryParameter(ge=0, le=2**63 - 1)]
_LogLimit = Annotated[int, QueryParameter(ge=1, le=1000)]
_Count = Annotated[int, QueryParameter(ge=1, le=100)]
_Attempt = Annotated[int | None, QueryParameter(ge=1, le=2**31 - 1)]


@post("/tasks", opt={"scope": "tasks:write", "errors": (Conflict, UnknownSecret)}, status_code=201)
async def submit(
    request: ApiRequest,
    data: JSONBody[wire.SubmitTask],
    actor: NamedDependency[Actor],
    db: NamedDependency[Database],
    settings: NamedDependency[Settings],
    kinds: NamedDependency[Kinds],
) -> Response[answers.SubmittedTask]:
    """Submit a task. With an Idempotency-Key, twice makes one."""
    submission = service.check(data, kinds, settings)

    async def create() -> answers.SubmittedTask:
        await service.require_room(tx, settings)
        row = await service.submit(tx, actor, submission, settings, request_id=request.scope["state"]["request_id"])
        return answers.submitted(row)

    async with db.transaction(actor) as tx:
        answer = await once(tx, actor, request, create)
    return answer.response()


@post(
    "/tasks/bulk",
    opt={"scope": "tasks:write", "errors": (Conflict, UnknownSecret)},
    status_code=201,
    request_max_body_size=_BULK_BYTES,
)
async def submit_bulk(
    request: ApiRequest,
    data: JSONBody[wire.SubmitTasks],
    actor: NamedDependency[Actor],
    db: NamedDependency[Database],
    settings: NamedDependency[Settings],
    kinds: NamedDependency[Kinds],
) -> Response[answers.SubmittedTasks]:
    """Submit up to 1,000 tasks: all of them, or none."""
    submissions = [service.check(body, kinds, settings, at=f"tasks[{n}].") for n, body in enumerate(data.tasks)]

    async def create() -> answers.SubmittedTasks:
        request_id = request.scope["state"]["request_id"]
        rows = await service.submit_all(tx, actor, submissions, settings, request_id=request_id)
        return answers.SubmittedTasks(items=[answers.submitted(row) for row in rows])

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
) -> Page[answers.TaskRow]:
    """Tasks of the team, newest first."""
    wanted = service.Filter(
        status=status,
        type=type,
        priority=priority,
        labels=_labels(labels or []),
        created_after=aware(created_after, "createdAfter"),
        created_before=aware(created_before, "createdBefore"),
    )
    async with db.transaction(actor) as tx:
        rows = await service.listed(tx, wanted, after=after(cursor), limit=limit + 1)
    return page([answers.in_list(row) for row in rows], limit, key=lambda row: row.operation_id)


@get("/tasks/types", opt={"scope": "tasks:read"})
async def types(kinds: NamedDependency[Kinds], settings: NamedDependency[Settings]) -> answers.TypesAnswer:
    """What can be submitted, with the JSON Schema of its data."""
    return answers.TypesAnswer(
        items=[
            answers.TypeAnswer(
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
) -> answers.TaskDetail:
    """Everything about a task."""
    async with db.transaction(actor) as tx:
        row = await service.get(tx, task_id)
        return answers.detail(
            row,
            attempts=await service.attempts(tx, task_id),
            schedule=await service.schedule(tx, task_id),
            retries=await service.retries(tx, task_id),
        )


@get("/tasks/{task_id:uuid}/status", opt={"scope": "tasks:read"})
async def get_status(
    task_id: FromPath[UUID], actor: NamedDependency[Actor], db: NamedDependency[Database]
) -> answers.TaskStatus:
    """Where a task is."""
    async with db.transaction(actor) as tx:
        return answers.status(await service.get(tx, task_id))


@get("/tasks/{task_id:uuid}/result", opt={"scope": "tasks:read", "errors": (NotFinished,)})
async def get_result(
    request: ApiRequest,
    task_id: FromPath[UUID],
    actor: NamedDependency[Actor],
    db: NamedDependency[Database],
    authenticator: NamedDependency[Authenticator],
    ends: NamedDependency[Ends],
    wait: Wait = 0,
) -> answers.TaskResult:
    """How a task ended; 409 before it has. With `wait`, up to so many seconds for its end."""
    deadline = asyncio.get_running_loop().time() + wait
    with ends.watching(task_id) as end:
        while True:
            try:
                async with db.transaction(actor) as tx:
                    return answers.result(await service.result(tx, task_id))
            except NotFinished:
                if asyncio.get_running_loop().time() >= deadline:
                    raise
            await end.soon(deadline)
            # a token that was revoked meanwhile opens nothing any more
            actor = await authenticator.actor(bearer(request), team=actor.team_slug or None)


@delete(
    "/tasks/{task_id:uuid}", opt={"scope": "tasks:write", "others": OTHERS, "errors": (AlreadyFinal,)}, status_code=200
)
async def cancel(
    task_id: FromPath[UUID], actor: NamedDependency[Actor], db: NamedDependency[Database]
) -> answers.Cancelled:
    """Cancel a task: a waiting one ends at once, a running one gets SIGTERM, a grace period, SIGKILL."""
    async with db.transaction(actor) as tx:
        status = await service.cancel(tx, actor, task_id)
    told = "the task is cancelled" if status is Status.CANCELLED else "the worker was asked to end"
    return answers.Cancelled(message=told, status=status)


@post(
    "/tasks/{task_id:uuid}/retry",
    opt={"scope": "tasks:write", "others": OTHERS, "errors": (NotFinished,)},
    status_code=201,
)
async def retry(
    task_id: FromPath[UUID], request: ApiRequest, actor: NamedDependency[Actor], db: NamedDependency[Database]
) -> Response[answers.SubmittedTask]:
    """Run a finished task again: a new task with the same input, linked to the old one."""

    async def create() -> answers.SubmittedTask:
        request_id = request.scope["state"]["request_id"]
        return answers.submitted(await service.retry(tx, actor, task_id, request_id=request_id))

    async with db.transaction(actor) as tx:
        answer = await once(tx, actor, request, create)
    return answer.response()


@post(
    "/tasks/{task_id:uuid}/stop-recurring",
    opt={"scope": "tasks:write", "others": OTHERS, "errors": (Conflict,)},
    status_code=200,
)
async def stop_recurring(
    task_id: FromPath[UUID], actor: NamedDependency[Actor], db: NamedDependency[Database]
) -> answers.Cancelled:
    """End a series; a run under way goes on."""
    async with db.transaction(actor) as tx:
        await service.stop_recurring(tx, actor, task_id)
    return answers.Cancelled(message="the series has ended", status=Status.CANCELLED)


@get("/tasks/{task_id:uuid}/recurring-instances", opt={"scope": "tasks:read", "errors": (Conflict,)})
async def recurring_instances(
    task_id: FromPath[UUID],
    actor: NamedDependency[Actor],
    db: NamedDependency[Database],
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[answers.TaskRow]:
    """Runs of a series, newest first."""
    async with db.transaction(actor) as tx:
        rows = await service.instances(tx, task_id, after=after(cursor), limit=limit + 1)
    return page([answers.in_list(row) for row in rows], limit, key=lambda row: row.operation_id)


@post("/tasks/preview-recurrence", opt={"scope": "tasks:read"}, status_code=200)
async def preview(
    data: JSONBody[wire.RecurrenceConfig],
    actor: NamedDependency[Actor],
    db: NamedDependency[Database],
    count: _Count = 10,
) -> answers.RecurrencePreview:
    """The next runs (`count`, 1 to 100) that a `recurrenceConfig` would have, without submitting anything."""
    async with db.transaction(actor) as tx:
        return answers.RecurrencePreview(next_runs=await service.preview(tx, data, count))


@get("/tasks/{task_id:uuid}/explain", opt={"scope": "tasks:read"})
async def explain_task(
    task_id: FromPath[UUID], actor: NamedDependency[Actor], db: NamedDependency[Database]
) -> answers.ExplainAnswer:
    """Why a task is not running, where it stands, and when it will probably start."""
    async with db.transaction(actor) as tx:
        return await explain.explain(tx, await service.get(tx, task_id))


@get("/logs/{task_id:uuid}", opt={"scope": "logs:read"})
async def get_logs(
    task_id: FromPath[UUID],
    actor: NamedDependency[Actor],
    db: NamedDependency[Database],
    since: _From = None,
    until: _To = None,
    after: _Seq = 0,
    limit: _LogLimit = 200,
    attempt: _Attempt = None,
) -> answers.LogsAnswer:
    """Log lines after number `after`, in order; of all attempts unless one is named."""
    async with db.transaction(actor) as tx:
        rows = await service.logs(
            tx,
            task_id,
            after=after,
            since=aware(since, "from"),
            until=aware(until, "to"),
            limit=limit,
            attempt=attempt,
        )
    return answers.LogsAnswer(entries=[answers.log_entry(row) for row in rows])


@delete("/logs/{task_id:uuid}", opt={"scope": "logs:delete", "errors": (NotFinished,)}, status_code=200)
async def delete_logs(
    task_id: FromPath[UUID], actor: NamedDependency[Actor], db: NamedDependency[Database]
) -> answers.Deleted:
    """Forget what a finished task logged."""
    async with db.transaction(actor) as tx:
        return answers.Deleted(deleted=await service.delete_logs(tx, actor, task_id))


@get("/queues", opt={"scope": "queues:read"})
async def queues(actor: NamedDependency[Actor], db: NamedDependency[Database]) -> answers.QueuesAnswer:
    """Slots, and how many tasks of the team wait and run."""
    async with db.transaction(actor) as tx:
        rows = await service.queues(tx)
    return answers.QueuesAnswer(items=[answers.queue(row) for row in rows])


@patch("/queues/{name:str}", opt={"scope": "queues:write"})
async def patch_queue(
    name: FromPath[str], data: JSONBody[wire.PatchQueue], actor: NamedDependency[Actor], db: NamedDependency[Database]
) -> answers.QueueAnswer:
    """Change a queue's slots, pause or resume it; running tasks finish."""
    if name not in set(Queue):
        raise NotFound("there is no such queue: critical, normal, batch")
    async with db.transaction(actor) as tx:
        await service.set_queue(tx, actor, name, slots=data.slots, paused=data.paused)
        rows = await service.queues(tx)
    return next(answers.queue(row) for row in rows if row["name"] == name)


def _labels(texts: list[str]) -> dict[str, str] | None:
    """`["pr:12"]` → `{"pr": "12"}`. Raises Malformed."""
    pairs = [text.partition(":") for text in texts]
    if len(pairs) > _MAX_LABELS or not all(key and separator for key, separator, _ in pairs):
        message = f"must be key:value, {_MAX_LABELS} times at most"
        raise Malformed(f"label: {message}", errors=(FieldError(path="label", message=message),))
    return {key: value for key, _, value in pairs} or None


ROUTES = [
    submit,
    submit_bulk,
    list_tasks,
    types,
    preview,
    get_task,
    get_status,
    get_result,
    cancel,
    retry,
    stop_recurring,
    recurring_instances,
    explain_task,
    get_logs,
    delete_logs,
    queues,
    patch_queue,
]
