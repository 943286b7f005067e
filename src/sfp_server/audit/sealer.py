"""Sealing: numbers, marks and signatures for entries that have been committed, within milliseconds.

The sealer knows how far it had come from three places: its own memory, the checkpoint files, and the database. Only the
last can be changed by somebody who writes the database; so where it is behind the others, the end was cut off, and
where its seals are not ours, they do not count. The chain then goes on from what we know, with the next number: the
hole stays in the trail, and `verify` names it.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from uuid import UUID

import structlog

from sfp_proof.chain import BEGINNING, Sealed
from sfp_proof.checkpoint import Checkpoints, Head
from sfp_proof.keys import KeyRing
from sfp_server.audit.checkpoints import CheckpointFiles
from sfp_server.audit.rows import entry_of, sealed_of
from sfp_server.audit.service import SQL
from sfp_server.audit.signer import Signer
from sfp_server.audit.tag import vouched
from sfp_server.db.database import Database, Row, Tx, Violation
from sfp_server.errors import Unavailable
from sfp_server.pace import Pace

log = structlog.get_logger()

#: entries that are sealed in one transaction
BATCH = 500
#: seconds between two looks when nothing was heard, and between tries to reach a database that is away
LOOK_SECONDS, RETRY_SECONDS = 1.0, 0.25
#: seconds for the last round, as the auditor ends
_END_SECONDS = 3.0
#: rounds that may follow each other at once, and how many a second beyond them
_ROUNDS_AT_ONCE, _ROUNDS_PER_SECOND = 10, 30
#: a number so far ahead was not given by us, and is passed over
_TOO_FAR = 1_000_000
#: any number; the same for every sealer
_LOCK = 7_302_024
_NO_TEAM = UUID(int=0)
_NOTHING = Head(seq=0, mark=BEGINNING)


class Sealer:
    """Seals until cancelled. `head` and `teams` say how far it has come."""

    def __init__(
        self, database: Database, signer: Signer, keys: KeyRing, files: CheckpointFiles, *, tag_key: bytes
    ) -> None:
        self._database = database
        self._signer = signer
        self._keys = keys
        self._files = files
        self._tag_key = tag_key
        self._wake = asyncio.Event()
        self._pace = Pace(at_once=_ROUNDS_AT_ONCE, per_second=_ROUNDS_PER_SECOND)
        self.head = _NOTHING
        #: by chain
        self.teams: dict[str, Head] = {}
        self._changed: set[str] = set()
        self._written = 0
        #: whether `teams` has every chain; without checkpoint files they are in the database only
        self._knows_teams = False
        self._is_disturbed = False

    def remember(self, found: Checkpoints) -> None:
        """Begin where the checkpoints say that we were."""
        self.head = found.head() or _NOTHING
        self.teams = {team: head for team in found.teams if (head := found.head(team))}
        self._written = self.head.seq
        self._knows_teams = found.lines > 0

    async def run(self, *, checkpoint_seconds: float) -> None:
        """Seal, and write checkpoints, until cancelled; what is there by then is sealed and written down."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._listen())
                group.create_task(self._seal())
                group.create_task(self._write(checkpoint_seconds))
        finally:
            with suppress(Unavailable, Violation, TimeoutError):
                async with asyncio.timeout(_END_SECONDS):
                    while await self.round() == BATCH:
                        pass
            self.checkpoint()

    async def _listen(self) -> None:
        while True:
            try:
                await self._database.listen("sfp_audit", lambda _: self._wake.set(), connected=self._wake.set)
            except Unavailable:
                await asyncio.sleep(RETRY_SECONDS)

    async def _seal(self) -> None:
        while True:
            try:
                if await self.round() == BATCH:
                    continue
            except Unavailable:
                await asyncio.sleep(RETRY_SECONDS)
            except Violation as error:
                log.warning(
                    "a number of the audit trail is taken by a seal that is not ours", constraint=error.constraint
                )
                await asyncio.sleep(LOOK_SECONDS)
            await self._told()

    async def _told(self) -> None:
        try:
            await asyncio.wait_for(self._wake.wait(), LOOK_SECONDS)
        except TimeoutError:
            return
        if (seconds := self._pace.wait()) > 0:
            await asyncio.sleep(seconds)
        self._wake.clear()

    async def round(self) -> int:
        """Seal what waits, BATCH entries at most; answers how many. Raises Unavailable, Violation."""
        async with self._database.serving() as tx:
            await tx.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
            head = self._further(self.head, await tx.one(SQL["last"]), of_team=False)
            if not self._knows_teams or head.seq != self.head.seq:  # it went on without our knowing
                chains = {str(row["id"]) for row in await tx.all(SQL["chains"])}
                self.teams |= await self._heads_of(tx, {None if chain == str(_NO_TEAM) else chain for chain in chains})
                self._changed |= set(self.teams)
                self._knows_teams = True
            rows = await tx.all(SQL["unsealed"], BATCH)
            if not rows:
                self.head = head
                return 0
            teams = await self._heads_of(tx, {row["team"] for row in rows})
            sealed = self._sealed(rows, head, teams)
            if await tx.execute(SQL["seal"], *_columns(sealed)) != len(sealed):
                raise Unavailable("entries were sealed by somebody else, or vanished")
        # Committed. When we do not get to know that, the next round finds it in the database.
        self.head = Head(seq=sealed[-1].seal.seq, mark=sealed[-1].mark())
        self.teams |= teams
        self._changed |= set(teams)
        return len(sealed)

    def _sealed(self, rows: Sequence[Row], head: Head, teams: dict[str, Head]) -> list[Sealed]:
        """Seals for `rows` in their order; `teams` is brought forward."""
        now = datetime.now(UTC)
        made: list[Sealed] = []
        for row in rows:
            entry = entry_of(row)
            of_team = teams[entry.team or ""]
            sealed = self._signer.seal(
                entry,
                at=now,
                seq=head.seq + 1,
                team_seq=of_team.seq + 1,
                previous=head.mark,
                team_previous=of_team.mark,
                attested=not row["is_copied"] and vouched(self._tag_key, entry),
            )
            head = Head(seq=head.seq + 1, mark=sealed.mark())
            teams[entry.team or ""] = Head(seq=of_team.seq + 1, mark=head.mark)
            made.append(sealed)
        return made

    async def _heads_of(self, tx: Tx, chains: set[str | None]) -> dict[str, Head]:
        ids = [UUID(chain) if chain else _NO_TEAM for chain in chains]
        rows = {row["team"]: row for row in await tx.all(SQL["last_of_teams"], ids)}
        return {
            chain or "": self._further(self.teams.get(chain or "", _NOTHING), rows.get(chain), of_team=True)
            for chain in chains
        }

    def _further(self, known: Head, row: Row | None, *, of_team: bool) -> Head:
        """Where a chain goes on: what we know, or what the database has, when that is further and ours."""
        if row is None:
            return self._behind(known) if known.seq else known
        last = sealed_of(row)
        number, mark = last.seal.team_seq if of_team else last.seal.seq, last.mark()
        if (number, mark) == (known.seq, known.mark):
            return known
        is_ours = self._keys.signed(last.seal.key_id, last.signature, last.seal.digest(last.entry))
        if number > known.seq and is_ours:
            return Head(seq=number, mark=mark)
        if number > known.seq:
            self._disturbed("the last entry of the audit trail is not what was sealed", number)
            return Head(seq=number if number < known.seq + _TOO_FAR else known.seq, mark=known.mark)
        return self._behind(known)

    def _behind(self, known: Head) -> Head:
        self._disturbed(
            "the end of the audit trail was cut off or changed, or an older database was restored", known.seq
        )
        return known

    def _disturbed(self, what: str, number: int) -> None:
        if not self._is_disturbed:
            log.error(what, entry=number, next="run `sfp-server audit verify-database`")
            self._is_disturbed = True

    async def _write(self, seconds: float) -> None:
        """A checkpoint when something was sealed, soon when the last one is `seconds` old."""
        pace = Pace(at_once=1, per_second=1 / max(seconds, 0.1))
        while True:
            if self._written != self.head.seq:
                await asyncio.sleep(pace.wait())
                self.checkpoint()
            await asyncio.sleep(LOOK_SECONDS)

    def checkpoint(self) -> None:
        """Write down how far we have come, unless that is written already. A full disk is told, and tried again."""
        if self._written == self.head.seq:
            return
        changed, head = self._changed, self.head
        try:
            self._files.append(head, self.teams, changed)
        except OSError as error:
            log.warning("a checkpoint of the audit trail cannot be written", why=error.strerror or str(error))
            return
        self._written, self._changed = head.seq, set()


def _columns(sealed: Sequence[Sealed]) -> tuple[object, ...]:
    """The parameters of `seal`."""
    seals = [item.seal for item in sealed]
    return (
        [item.entry.id for item in sealed],
        [seal.seq for seal in seals],
        [seal.team_seq for seal in seals],
        [seal.previous for seal in seals],
        [seal.team_previous for seal in seals],
        [seal.attested for seal in seals],
        [item.signature for item in sealed],
        datetime.fromisoformat(seals[0].sealed_at).replace(tzinfo=UTC),
        seals[0].key_id,
    )
