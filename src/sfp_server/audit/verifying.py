"""Reading the trail from the database and checking it, in batches: millions of entries, a few megabytes of memory."""

import asyncio
from collections.abc import Callable, Sequence
from uuid import UUID

from sfp_proof.check import Check, Report
from sfp_proof.checkpoint import Checkpoints
from sfp_proof.keys import KeyRing
from sfp_server.audit.rows import sealed_of
from sfp_server.audit.service import SQL
from sfp_server.db.database import Database, Row

BATCH = 1000
#: below every number, also of entries that somebody else has put there
LOWEST = -(2**63)
#: seconds that an entry may wait for its seal
PATIENCE = 60.0


async def verify(
    database: Database,
    keys: KeyRing,
    checkpoints: Checkpoints,
    *,
    team: UUID | None = None,
    told: Callable[[int], None] = lambda _: None,
) -> Report:
    """Check the whole trail, or one team's chain.

    Args:
        database: of the role `sfp_auditor`.
        told: is called with the number of entries that were read, after each batch.

    Raises Unavailable.
    """
    check = Check(keys, checkpoints, team=None if team is None else str(team))
    while rows := await _next(database, check.number if check.entries else LOWEST, team):
        await asyncio.to_thread(_read, check, rows)
        told(check.entries)
        if len(rows) < BATCH:
            break
    async with database.serving() as tx:
        waiting = await tx.one(SQL["waiting"], team, PATIENCE)
    assert waiting is not None  # an aggregate
    check.waiting(waiting["entries"], oldest=waiting["oldest"], too_long=waiting["too_long"])
    return await asyncio.to_thread(check.finish)


async def _next(database: Database, after: int, team: UUID | None) -> Sequence[Row]:
    async with database.serving() as tx:
        if team is None:
            return await tx.all(SQL["sealed_after"], after, BATCH)
        return await tx.all(SQL["team_sealed_after"], after, BATCH, team)


def _read(check: Check, rows: Sequence[Row]) -> None:
    for row in rows:
        check.add(sealed_of(row))
