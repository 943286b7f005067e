"""Use cases of artifacts: uploaded inputs, and files that a task kept."""

from collections.abc import Sequence
from uuid import UUID

from sfp_server.actor import Actor
from sfp_server.audit import service as audit
from sfp_server.db.database import Row, Tx
from sfp_server.errors import NotFound
from sfp_server.tasks.artifacts import Stored
from sfp_server.tasks.service import SQL, get


async def add(tx: Tx, actor: Actor, stored: Stored, *, name: str, content_type: str) -> Row:
    """Record an upload that is on disk."""
    row = await tx.one(
        SQL["add_artifact"], stored.id, None, None, name, stored.size, stored.sha256, content_type, actor.label
    )
    assert row is not None  # INSERT … RETURNING
    return row


async def find(tx: Tx, artifact_id: UUID) -> Row:
    """Facts of an artifact of the actor's team. Raises NotFound."""
    row = await tx.one(SQL["get_artifact"], artifact_id)
    if row is None:
        raise NotFound(f"there is no artifact {artifact_id}")
    return row


async def remove(tx: Tx, actor: Actor, artifact_id: UUID) -> None:
    """Forget an uploaded artifact. Raises NotFound (also for one that a task kept)."""
    if await tx.one(SQL["delete_artifact"], artifact_id) is None:
        raise NotFound(f"there is no uploaded artifact {artifact_id}")
    await audit.record(tx, actor.label, "artifact.deleted", f"artifact:{artifact_id}")


async def kept(tx: Tx, task_id: UUID) -> Sequence[Row]:
    """What a task kept, by name. Raises NotFound."""
    await get(tx, task_id)
    return await tx.all(SQL["task_artifacts"], task_id)


async def kept_file(tx: Tx, task_id: UUID, name: str) -> Row:
    """One kept file of a task. Raises NotFound."""
    await get(tx, task_id)
    row = await tx.one(SQL["task_artifact"], task_id, name)
    if row is None:
        raise NotFound(f"the task kept no file {name[:200]}")
    return row
