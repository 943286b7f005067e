"""`/dispatchers`: which machines run tasks, and what they have. For owners."""

from datetime import datetime
from uuid import UUID

from litestar import get
from litestar.di import NamedDependency

from sfp_server.actor import Actor
from sfp_server.db.database import Database, Row
from sfp_server.tasks.service import SQL
from sfp_server.web.wire import Wire


class DispatcherAnswer(Wire):
    """A process that runs tasks, and what its machine has."""

    id: UUID
    #: `local`, or the name under which its machine was added
    name: str
    remote: bool
    alive: bool
    host: str
    version: str
    #: tasks at once; None: as many as the queues have slots
    slots: int | None
    runtimes: list[str]
    #: name → version
    toolchains: dict[str, str]
    #: runtime → wall → how
    isolation: dict[str, dict[str, str]]
    started_at: datetime
    last_seen_at: datetime


class DispatchersAnswer(Wire):
    items: list[DispatcherAnswer]


@get("/dispatchers", opt={"scope": "dispatchers:read"})
async def dispatchers(actor: NamedDependency[Actor], db: NamedDependency[Database]) -> DispatchersAnswer:
    """Dispatchers heard of within the last hour, the instance's own first."""
    async with db.transaction(actor) as tx:
        rows = await tx.all(SQL["dispatchers"])
    return DispatchersAnswer(items=[_answer(row) for row in rows])


def _answer(row: Row) -> DispatcherAnswer:
    return DispatcherAnswer(
        id=row["id"],
        name=row["name"],
        remote=row["remote"],
        alive=row["alive"],
        host=row["host"].partition(":")[0],  # the rest is a path of that machine
        version=row["version"],
        slots=row["slots"],
        runtimes=row["runtimes"],
        toolchains=row["toolchains"],
        isolation=row["isolation"],
        started_at=row["started_at"],
        last_seen_at=row["seen_at"],
    )


ROUTES = [dispatchers]
