"""Projects: repositories that a team works on, by a name of their own."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sfp_server.actor import Actor
from sfp_server.audit import service as audit
from sfp_server.db.database import Row, Tx, Violation
from sfp_server.db.queries import load
from sfp_server.errors import Conflict, NotFound
from sfp_server.web.preconditions import Expectation

SQL = load("sfp_server.credentials", "integrations.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A repository, as requests name it."""

    id: UUID
    identifier: str
    remote_url: str
    version: int
    created_by: str
    created_at: datetime
    updated_at: datetime


def _project(row: Row) -> Project:
    return Project(**{name: row[name] for name in Project.__dataclass_fields__})


async def create(tx: Tx, actor: Actor, *, identifier: str, remote_url: str) -> Project:
    """Raises Conflict: the team has a project of that name."""
    try:
        row = await tx.one(SQL["add_project"], identifier, remote_url, actor.label)
    except Violation as error:
        if error.constraint != "projects_identifier_unique":
            raise
        raise Conflict(f"there is a project {identifier} already") from error
    assert row is not None  # INSERT … RETURNING
    await audit.record(tx, actor.label, "project.registered", f"project:{identifier}", {"remoteUrl": remote_url})
    return _project(row)


async def listed(tx: Tx, *, identifier: str | None, after: UUID | None, limit: int) -> Sequence[Project]:
    """Projects of the team in the order of their making; one name's only, when it is given."""
    return [_project(row) for row in await tx.all(SQL["list_projects"], identifier, after, limit)]


async def get(tx: Tx, project_id: UUID) -> Project:
    """Raises NotFound."""
    row = await tx.one(SQL["get_project"], project_id)
    if row is None:
        raise NotFound("there is no such project")
    return _project(row)


async def move(tx: Tx, actor: Actor, project_id: UUID, *, remote_url: str, expected: Expectation) -> Project:
    """Give a project another address. Raises NotFound, VersionConflict."""
    row = await tx.one(SQL["lock_project"], project_id)
    if row is None:
        raise NotFound("there is no such project")
    expected.check(row["version"])
    changed = await tx.one(SQL["move_project"], project_id, remote_url)
    assert changed is not None
    detail = {"remoteUrl": remote_url}
    await audit.record(tx, actor.label, "project.changed", f"project:{changed['identifier']}", detail)
    return _project(changed)


async def delete(tx: Tx, actor: Actor, project_id: UUID) -> None:
    """Forget a project; integrations that were for it alone are for nothing then. Raises NotFound."""
    row = await tx.one(SQL["delete_project"], project_id)
    if row is None:
        raise NotFound("there is no such project")
    await audit.record(tx, actor.label, "project.deleted", f"project:{row['identifier']}")


async def of_repository(tx: Tx, identifier: str) -> Project | None:
    """The project of that name, or of the repository whose address ends with it (`owner/name`)."""
    row = await tx.one(SQL["project_of_repository"], identifier)
    return _project(row) if row else None
