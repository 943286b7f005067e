"""The database's clock decides what is due and whose lease has run out. What when it is set back?

Then immediate tasks would be due in the future, retries wait too long, leases of the dead last, and teams that were
just served wait for their turn. A dispatcher compares that clock with its own, which is never set, and puts it right.
"""

import time

import structlog

from sfp_server.db.database import Database
from sfp_server.tasks.steps import SQL

log = structlog.get_logger()

#: seconds that a clock may be set back unnoticed: it is always corrected a little
_TOLERANCE = 2.0
#: looks for which it goes on: transactions that had begun before still know the old time
_LOOKS = 5
_STATEMENTS = ("due_again", "retry_again", "lease_again", "turn_again", "seen_again")


class DatabaseClock:
    """One dispatcher's watch over the database's clock."""

    def __init__(self, database: Database) -> None:
        self._database = database
        #: seconds that it is ahead of our own
        self._ahead = float("inf")
        self._looks_left = 0

    async def look(self) -> None:
        """Put right what a clock that was set back has left in the future. Raises Unavailable."""
        async with self._database.separately() as tx:
            ahead = float(await tx.value(SQL["database_time"])) - time.monotonic()
        if ahead < self._ahead - _TOLERANCE:
            if self._ahead != float("inf"):  # it is when we come: nobody may have looked for a while
                log.warning("the database's clock was set back", seconds=round(self._ahead - ahead))
            self._looks_left = _LOOKS
        self._ahead = ahead
        if self._looks_left:
            async with self._database.serving() as tx:
                for name in _STATEMENTS:
                    await tx.execute(SQL[name])
            self._looks_left -= 1
