"""The broker's keys: read from their source, made known to the database, changed while everything runs.

A rotation adds a key pair to the ring, first at the source, then as a public key in the database: from there on the
API seals to it. `keep_up` then seals every key anew, a batch at a time, and forgets a private key when nothing refers
to its public half any more, which the database decides. Each step may be the last before a crash: `keep_up` goes on
from what it finds.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import structlog

from sfp_server.audit import service as audit
from sfp_server.credentials.model import integration_place, secret_place
from sfp_server.credentials.public import SQL
from sfp_server.credentials.ring import BadRing, Ring, is_vouched, vouch
from sfp_server.credentials.sources.base import KeySource, SourceError
from sfp_server.credentials.vault import CannotOpen, Opener, Place
from sfp_server.db.database import Database, Row, Tx, Violation
from sfp_server.errors import Conflict, Unavailable

_log = structlog.get_logger("vault")

#: keys sealed anew in one transaction
_BATCH = 50
#: seconds between two tries while the source or the database is away
_PAUSE = 2.0
#: seconds between two looks whether an old key is still needed
_LOOK_AGAIN = 30.0
#: statements that find and replace old sealed keys, by table
_TABLES = {
    "secret_versions": ("old_secrets", "rewrap_secret"),
    "integrations": ("old_integrations", "rewrap_integration"),
}
_START = UUID(int=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyState:
    """One key pair, as owners may see it."""

    version: int
    created_at: datetime
    #: how many values are sealed to it
    sealed: int
    is_current: bool


class KeyRing:
    """Holds the private keys in memory, and nowhere else."""

    def __init__(self, source: KeySource, database: Database, *, vouching: bytes) -> None:
        self._source = source
        self._database = database
        self._vouching = vouching
        self._ring: Ring | None = None
        self._opener: Opener | None = None
        self._why = "the vault's keys have not been read yet"
        self._changed = asyncio.Event()
        self._changing = asyncio.Lock()
        #: values that no private key opens: moved or changed in the database
        self.broken = 0

    @property
    def opener(self) -> Opener:
        """Raises Unavailable while the source of the keys is away."""
        if self._opener is None:
            raise Unavailable(self._why, retry_after=5)
        return self._opener

    async def load(self) -> None:
        """Read the ring, or make the first one where there is none. Raises SourceError, BadRing, Unavailable."""
        text = await self._source.read()
        ring = await self._first() if text is None else Ring.parse(text)
        self._hold(ring)

    async def _first(self) -> Ring:
        async with self._database.serving() as tx:
            if await tx.one(SQL["current_key"]) is not None:
                raise SourceError("the source has no keys, and values are sealed to some: restore them there")
        ring = Ring.fresh()
        await self._source.write(ring.text())
        _log.info("the vault's first key pair is made", source=self._source.name)
        return ring

    def _hold(self, ring: Ring) -> None:
        self._ring, self._opener = ring, ring.opener()

    async def run(self) -> None:
        """Read the keys as soon as their source is there, then keep up until cancelled."""
        while self._ring is None:
            try:
                await self.load()
            except (SourceError, BadRing, Unavailable) as error:
                if self._why != str(error):
                    _log.error("the vault's keys cannot be had; trying on", why=str(error))
                self._why = str(error)
                await asyncio.sleep(_PAUSE)
        while True:
            self._changed.clear()
            try:
                await self.keep_up()
            except (Unavailable, SourceError) as error:
                _log.warning("sealing the vault's keys anew has to wait", why=str(error))
                await asyncio.sleep(_PAUSE)
            else:
                await self._until_changed()

    async def _until_changed(self) -> None:
        """Until there is something to do; while an old key is kept, look now and then whether it is still needed."""
        old = self._ring is not None and len(self._ring.keys) > 1
        with suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), _LOOK_AGAIN if old else None)

    async def rotate(self, *, team_id: UUID | None, actor: str) -> int:
        """Begin a rotation; answers the version of the new key pair, which is in use when this returns.

        Raises Conflict: the one before is not done yet. SourceError, Unavailable.
        """
        async with self._changing:
            ring = self._ring
            if ring is None:
                raise Unavailable(self._why, retry_after=5)
            if len(ring.keys) > 1:
                raise Conflict(f"the rotation to key pair {ring.current} is not done yet")
            following = ring.with_next()
            await self._source.write(following.text())
            self._hold(following)
            self._changed.set()  # whatever happens now: `keep_up` goes on from here
            async with self._database.serving(team_id) as tx:
                await self._publish(tx, following)
                await audit.record(tx, actor, "vault.rotated", f"vault_key:{following.current}", {})
        _log.info("the vault has a new key pair", version=following.current)
        return following.current

    async def states(self) -> Sequence[KeyState]:
        """Every key pair that something is sealed to, oldest first. Raises Unavailable."""
        async with self._database.serving() as tx:
            await tx.execute(SQL["about_every_team"])
            rows = await tx.all(SQL["all_keys"])
        last = rows[-1]["version"] if rows else 0
        return [
            KeyState(
                version=row["version"],
                created_at=row["created_at"],
                sealed=row["sealed"],
                is_current=row["version"] == last,
            )
            for row in rows
        ]

    async def keep_up(self) -> None:
        """Publish what the ring has, seal anew what is sealed to old keys, forget the keys that nothing needs.

        Raises Unavailable, SourceError. Doing it again is fine.
        """
        ring = self._ring
        assert ring is not None  # `run` has read it
        async with self._database.serving() as tx:
            await self._publish(tx, ring)
        self.broken = sum([await self._rewrap_all(ring, table) for table in _TABLES])
        for version in sorted(ring.keys)[:-1]:
            if await self._drop(version):
                await self._forget(version)

    async def _publish(self, tx: Tx, ring: Ring) -> None:
        """The current public key becomes known. Raises Unavailable when the database has another of that version."""
        version, public_key = ring.current, ring.public(ring.current)
        await tx.execute(SQL["add_key"], version, public_key, vouch(self._vouching, version, public_key))
        row = await tx.one(SQL["current_key"])
        assert row is not None
        trusted = is_vouched(self._vouching, row["version"], row["public_key"], row["mac"])
        if row["version"] > version and trusted:
            raise Unavailable("the database knows a newer key than the source of keys has: restore it there")
        if row["public_key"] != public_key or not trusted:
            raise Unavailable("a public key in the database is not ours: somebody changed it")

    async def _rewrap_all(self, ring: Ring, table: str) -> int:
        """Seal every old key of a table anew; answers how many could not be."""
        broken, after = 0, (_START, 0)
        while True:
            async with self._database.serving() as tx:
                await tx.execute(SQL["about_every_team"])
                rows = await tx.all(SQL[_TABLES[table][0]], ring.current, *after, _BATCH)
                for row in rows:
                    broken += not await self._rewrap(tx, ring, table, row)
            if not rows:
                return broken
            after = (rows[-1]["row_id"], rows[-1]["version"])

    async def _rewrap(self, tx: Tx, ring: Ring, table: str, row: Row) -> bool:
        assert self._opener is not None
        try:
            anew = self._opener.rewrap(row["key_version"], row["sealed_key"], _place(table, row), ring.sealer())
        except CannotOpen:
            _log.error("a stored value cannot be opened: it was moved or changed", table=table, row=str(row["row_id"]))
            return False
        where = (row["team_id"], row["row_id"], row["version"], row["sealed_key"])
        await tx.execute(SQL[_TABLES[table][1]], *where, anew, ring.current)
        return True

    async def _drop(self, version: int) -> bool:
        """Whether nothing is sealed to an old public key any more; then it is gone."""
        try:
            async with self._database.serving() as tx:
                await tx.execute(SQL["drop_key"], version)
        except Violation:
            if not self.broken:
                self._changed.set()  # sealed meanwhile by whoever had looked before: once more
            return False
        return True

    async def _forget(self, version: int) -> None:
        async with self._changing:
            assert self._ring is not None
            smaller = self._ring.without(version)
            await self._source.write(smaller.text())
            self._hold(smaller)
        _log.info("an old private key of the vault is gone", version=version)


def _place(table: str, row: Row) -> Place:
    if table == "integrations":
        return integration_place(integration_id=row["row_id"], team_id=row["team_id"], provider=row["name"])
    return secret_place(
        secret_id=row["row_id"],
        team_id=row["team_id"],
        name=row["name"],
        version=row["version"],
        is_reference=row["is_reference"],
    )
