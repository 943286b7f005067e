"""Gives leases back at their source when the attempt that held them has ended, however it ended."""

import asyncio
from collections.abc import Mapping

import structlog

from sfp_server.credentials.public import SQL as KEYS
from sfp_server.credentials.service import SQL
from sfp_server.credentials.sources.base import SourceError, ValueSource
from sfp_server.db.database import Database, Row
from sfp_server.errors import Unavailable

_log = structlog.get_logger("broker")

#: seconds after which a lease is tried again that its source would not take back
_AGAIN = 30.0
_PAUSE = 2.0


class Returns:
    """Hears of ended leases, and looks for itself when it begins and every half minute."""

    def __init__(self, database: Database, sources: Mapping[str, ValueSource]) -> None:
        self._database = database
        self._sources = sources
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            while True:
                self._ended.clear()
                try:
                    await self.give_back()
                except Unavailable:
                    await asyncio.sleep(_PAUSE)
                    continue
                try:
                    await asyncio.wait_for(self._ended.wait(), _AGAIN)
                except TimeoutError:
                    continue

    async def _listen(self) -> None:
        while True:
            try:
                await self._database.listen("sfp_leases", lambda _: self._ended.set(), connected=self._ended.set)
            except Unavailable:
                await asyncio.sleep(_PAUSE)

    async def give_back(self) -> None:
        """What is to be given back now. Raises Unavailable."""
        async with self._database.serving() as tx:
            await tx.execute(KEYS["about_every_team"])
            rows = await tx.all(SQL["leases_to_revoke"])
        for row in rows:
            if await self._gave_back(row):
                async with self._database.serving() as tx:
                    await tx.execute(KEYS["about_every_team"])
                    await tx.execute(SQL["lease_revoked"], row["id"])

    async def _gave_back(self, row: Row) -> bool:
        source = self._sources.get(row["source"])
        try:
            if source is not None:
                await source.revoke(row["source_id"])
        except SourceError as error:
            _log.warning("a lease could not be given back; trying again", source=row["source"], why=str(error))
            return False
        return source is not None
