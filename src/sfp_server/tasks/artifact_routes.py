"""`/artifacts`: upload an input, read it back, delete it; `/tasks/{id}/artifacts`: what a task kept."""

from typing import Annotated, Any
from uuid import UUID

from litestar import Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from sfp_server.actor import Actor
from sfp_server.db.database import Database, Row
from sfp_server.errors import BodyTimeout, RangeNotSatisfiable, TooLarge, UnsupportedMediaType
from sfp_server.settings import Settings
from sfp_server.tasks import answers
from sfp_server.tasks import artifact_service as service
from sfp_server.tasks.artifacts import ArtifactStore
from sfp_server.tasks.transfer import Upload, clean_name, send_file
from sfp_server.web.wire import ApiRequest

_OCTETS = "application/octet-stream"
#: what a download answers beside the whole file
_BYTES: dict[str, Any] = {"errors": (RangeNotSatisfiable,), "answers": {206: _OCTETS}}
_Name = Annotated[str | None, QueryParameter(max_length=255)]


@post(
    "/artifacts",
    opt={"scope": "artifacts:write", "errors": (BodyTimeout, TooLarge, UnsupportedMediaType)},
    request_max_body_size=None,
)
async def upload(
    request: ApiRequest,
    actor: NamedDependency[Actor],
    db: NamedDependency[Database],
    store: NamedDependency[ArtifactStore],
    settings: NamedDependency[Settings],
    name: _Name = None,
) -> answers.ArtifactAnswer:
    """Upload an input: the raw bytes as the body, or a form with one file."""
    incoming = Upload(request, name or "")
    stored = await store.receive(incoming.chunks(), limit=settings.upload_max_mb * 1024 * 1024)
    try:
        async with db.transaction(actor) as tx:
            row = await service.add(
                tx, actor, stored, name=clean_name(incoming.name), content_type=incoming.content_type
            )
    except BaseException:
        store.remove(stored.id)
        raise
    return answers.artifact(row)


@get("/artifacts/{artifact_id:uuid}", opt={"scope": "artifacts:read", **_BYTES}, media_type=_OCTETS)
async def download(
    artifact_id: FromPath[UUID],
    request: ApiRequest,
    actor: NamedDependency[Actor],
    db: NamedDependency[Database],
    store: NamedDependency[ArtifactStore],
) -> Response[Any]:
    """The bytes of an uploaded or kept artifact."""
    async with db.transaction(actor) as tx:
        row = await service.find(tx, artifact_id)
    return _send(row, request, store)


@delete("/artifacts/{artifact_id:uuid}", opt={"scope": "artifacts:write"})
async def remove(
    artifact_id: FromPath[UUID],
    actor: NamedDependency[Actor],
    db: NamedDependency[Database],
    store: NamedDependency[ArtifactStore],
) -> None:
    """Forget an uploaded artifact."""
    async with db.transaction(actor) as tx:
        await service.remove(tx, actor, artifact_id)
    store.remove(artifact_id)


@get("/tasks/{task_id:uuid}/artifacts", opt={"scope": "artifacts:read"})
async def kept(
    task_id: FromPath[UUID], actor: NamedDependency[Actor], db: NamedDependency[Database]
) -> answers.ArtifactsAnswer:
    """Names, sizes and hashes of what a task kept."""
    async with db.transaction(actor) as tx:
        rows = await service.kept(tx, task_id)
    return answers.ArtifactsAnswer(items=[answers.artifact(row) for row in rows])


@get("/tasks/{task_id:uuid}/artifacts/{path:path}", opt={"scope": "artifacts:read", **_BYTES}, media_type=_OCTETS)
async def kept_file(
    task_id: FromPath[UUID],
    path: FromPath[str],
    request: ApiRequest,
    actor: NamedDependency[Actor],
    db: NamedDependency[Database],
    store: NamedDependency[ArtifactStore],
) -> Response[Any]:
    """The bytes of one file that a task kept."""
    async with db.transaction(actor) as tx:
        row = await service.kept_file(tx, task_id, path.lstrip("/"))
    return _send(row, request, store)


def _send(row: Row, request: ApiRequest, store: ArtifactStore) -> Response[Any]:
    return send_file(
        store.path(row["id"]),
        name=row["name"],
        size=row["size"],
        sha256=row["sha256"],
        range_header=request.headers.get("range"),
    )


ROUTES = [upload, download, remove, kept, kept_file]
