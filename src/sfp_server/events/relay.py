"""The relay: reads new events once for all API processes and hands them to Valkey. Runs in the deliverer process.

It keeps nothing that matters: whatever it misses (while the database, Valkey or the relay itself was away, or
because there was too much at once) is read from the log by the API processes, a second later.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from uuid import UUID

import valkey.asyncio
from valkey.exceptions import ValkeyError

from sfp_server.db.database import Database, Row
from sfp_server.errors import Unavailable
from sfp_server.events.fanout import FANOUT, Publication, bundles, publication
from sfp_server.events.model import Frame, frame, runs
from sfp_server.events.outage import Outage
from sfp_server.events.service import SQL
from sfp_server.pace import Pace
from sfp_server.settings import Settings

#: channels read at once, events read at once per channel and in all
CHANNELS_AT_ONCE, EVENTS_PER_CHANNEL, EVENTS_AT_ONCE = 100, 500, 2000
#: channels whose cursor is remembered, and channels that may wait to be read; the oldest are forgotten first
CURSORS_MAX, WAITING_MAX = 20_000, 10_000
#: seconds that an event waits which says so itself, unless one comes that does not
CALM_SECONDS = 0.006
#: rounds of reading and publishing that may follow each other at once, and how many a second beyond them: when much
#: happens, several events go in one round, and each waits for a fiftieth of a second at most
ROUNDS_AT_ONCE, ROUNDS_PER_SECOND = 15, 50
#: seconds: a publication that takes longer is given up; time between attempts to reach a part that is away
PUBLISH_TIMEOUT, RETRY_DELAY = 2.0, 0.25

#: team and channel
_Key = tuple[UUID, str]


class Relay:
    """Moves events from the log of all teams to Valkey. `run` it until cancelled."""

    def __init__(self, database: Database, cache: "valkey.asyncio.Valkey") -> None:
        self._database = database
        self._cache = cache
        #: the highest number that was told, per channel that has not been read since
        self._waiting: OrderedDict[_Key, int] = OrderedDict()
        #: the last number that was published, least recently used first
        self._cursors: OrderedDict[_Key, int] = OrderedDict()
        self._told = asyncio.Event()
        self._soon: asyncio.TimerHandle | None = None
        self._pace = Pace(at_once=ROUNDS_AT_ONCE, per_second=ROUNDS_PER_SECOND)
        self._database_outage = Outage("database", "nothing is relayed; API processes read by themselves")
        self._valkey_outage = Outage("valkey", "nothing is relayed; API processes read by themselves")
        #: set while notifications are heard
        self.is_listening = asyncio.Event()

    async def run(self) -> None:
        """Relay until cancelled; survives the absence of the database and of Valkey."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            group.create_task(self._relay())

    async def _listen(self) -> None:
        while True:
            try:
                await self._database.listen("sfp_events", self._heard, connected=self._connected)
            except Unavailable as error:
                self._database_outage.began(error)
            self.is_listening.clear()
            await asyncio.sleep(RETRY_DELAY)

    def _connected(self) -> None:
        self._database_outage.over()
        self.is_listening.set()

    def _heard(self, payload: str) -> None:
        """`<team> <seq> <channel>`; `~` behind the number says that it has a few milliseconds."""
        team, _, rest = payload.partition(" ")
        seq, _, channel = rest.partition(" ")
        key = UUID(team), channel
        self._waiting[key] = max(int(seq.removesuffix("~")), self._waiting.get(key, 0))
        if len(self._waiting) > WAITING_MAX:
            self._waiting.popitem(last=False)
        if not seq.endswith("~"):
            self._told.set()
        elif self._soon is None:
            self._soon = asyncio.get_running_loop().call_later(CALM_SECONDS, self._told.set)

    async def _relay(self) -> None:
        while True:
            await self._told.wait()
            self._told.clear()
            if self._soon is not None:
                self._soon.cancel()
                self._soon = None
            while self._waiting:
                if (seconds := self._pace.wait()) > 0:
                    await asyncio.sleep(seconds)
                wanted = self._next()
                try:
                    await self._publish(await self._read(wanted))
                except Unavailable as error:
                    self._database_outage.began(error)
                    await asyncio.sleep(RETRY_DELAY)
                except (ValkeyError, OSError, TimeoutError) as error:
                    # Not tried again: by the time Valkey is back the API processes have read the log.
                    self._valkey_outage.began(error)
                else:
                    self._valkey_outage.over()

    def _next(self) -> dict[_Key, int]:
        """Take channels off the waiting list; answers after which number each is to be read."""
        wanted: dict[_Key, int] = {}
        while self._waiting and len(wanted) < CHANNELS_AT_ONCE:
            key, seq = self._waiting.popitem(last=False)
            # Far behind, or met for the first time: nobody who is live needs more than the latest.
            after = max(self._cursors.get(key, 0), seq - EVENTS_PER_CHANNEL)
            if after < seq:
                wanted[key] = after
        return wanted

    async def _read(self, wanted: dict[_Key, int]) -> list[Publication]:
        if not wanted:
            return []
        teams, channels = [key[0] for key in wanted], [key[1] for key in wanted]
        arguments = (teams, channels, list(wanted.values()), EVENTS_PER_CHANNEL, EVENTS_AT_ONCE)
        async with self._database.separately() as tx:
            rows = await tx.all(SQL["relay"], *arguments)
        found = _by_channel(rows)
        if len(rows) == EVENTS_AT_ONCE:
            self._put_back(wanted, found)
        return [publication(*key, run) for key, frames in found.items() for run in runs(frames)]

    def _put_back(self, wanted: dict[_Key, int], found: dict[_Key, list[Frame]]) -> None:
        """The read was full: channels that it did not reach to their end are read again."""
        for key, after in wanted.items():
            frames = found.get(key)
            if frames is None:
                self._waiting[key] = max(after + 1, self._waiting.get(key, 0))
            elif len(frames) < EVENTS_PER_CHANNEL:
                self._waiting[key] = max(frames[-1].seq + 1, self._waiting.get(key, 0))

    async def _publish(self, publications: Sequence[Publication]) -> None:
        for item in publications:
            self._advance((item.team_id, item.channel), item.last)
        async with asyncio.timeout(PUBLISH_TIMEOUT):
            for message in bundles(publications):
                await self._cache.publish(FANOUT, message)  # pyright: ignore[reportUnknownMemberType] (untyped library)

    def _advance(self, key: _Key, seq: int) -> None:
        self._cursors[key] = seq
        self._cursors.move_to_end(key)
        if len(self._cursors) > CURSORS_MAX:
            self._cursors.popitem(last=False)


def _by_channel(rows: Sequence[Row]) -> dict[_Key, list[Frame]]:
    found: dict[_Key, list[Frame]] = {}
    for row in rows:
        made = frame(channel=row["channel"], seq=row["seq"], event=row["event"], at=row["at"], data=row["data"])
        found.setdefault((row["team_id"], row["channel"]), []).append(made)
    return found


async def run(settings: Settings) -> None:
    """The deliverer's work: relay events until cancelled."""
    cache = valkey.asyncio.from_url(settings.cache_connection_url(), socket_connect_timeout=PUBLISH_TIMEOUT)  # pyright: ignore[reportUnknownMemberType] (untyped library)
    async with Database(settings.role_url("sfp_deliverer"), application="sfp deliverer", size=2) as database, cache:
        await Relay(database, cache).run()
