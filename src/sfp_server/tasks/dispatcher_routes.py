"""`/dispatchers`: which machines run tasks, and what they have. For owners."""

from litestar import get
from litestar.di import NamedDependency

from sfp_server.actor import Actor
from sfp_server.db.database import Database
from sfp_server.tasks import answers
from sfp_server.tasks.service import SQL


@get("/dispatchers", opt={"scope": "dispatchers:read"})
async def dispatchers(actor: NamedDependency[Actor], db: NamedDependency[Database]) -> answers.DispatchersAnswer:
    """Dispatchers heard of within the last hour, the instance's own first."""
    async with db.transaction(actor) as tx:
        rows = await tx.all(SQL["dispatchers"])
    return answers.DispatchersAnswer(items=[answers.dispatcher(row) for row in rows])


ROUTES = [dispatchers]
