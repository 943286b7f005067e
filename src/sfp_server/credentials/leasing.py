"""Redeeming a ticket: draw, leases and audit entries are one transaction, and without it nothing is handed out.

What is kept elsewhere is fetched before that transaction commits and outside of any: the draw is undone, the values are
fetched, and it is drawn again with them at hand. What was fetched for nothing is given back.
"""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import msgspec
import structlog

from sfp_server.audit import service as audit
from sfp_server.credentials.flight import Flights
from sfp_server.credentials.model import SHORTEST_VALUE, integration_place, secret_place
from sfp_server.credentials.proof import holds
from sfp_server.credentials.providers import Credentials, git_login, variables
from sfp_server.credentials.service import SQL
from sfp_server.credentials.sources.base import Fetched, SourceError, ValueSource
from sfp_server.credentials.vault import CannotOpen, Opener, Place, Sealed, UnknownKey
from sfp_server.db.database import Database, Row, Tx

log = structlog.get_logger()

#: how often what is kept elsewhere may turn out to be something else when it is drawn again
_ROUNDS = 3


class Refused(Exception):
    """The ticket opens nothing, or what it names cannot be had. The text goes to the worker: no values in it."""


class KeysChanged(Refused):
    """The vault's keys are others than those that were at hand when the redemption began; nothing was drawn."""


class Reference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a value is kept: an entry of what stands at a path of a source."""

    source: str
    path: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Presented:
    """What a worker shows: its ticket, over one connection."""

    ticket: str
    #: names the connection; only it may try again after Unavailable
    connection: UUID
    #: of a worker that came from another machine; None: it came from this one
    proof: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """What goes to the worker."""

    #: `{"type", "name", "env", "value"}`, with `"open": true` where the value hides nothing
    credentials: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    #: `{"base", "header"}`: how git signs in below an address
    git: list[dict[str, str]] = field(default_factory=list[dict[str, str]])


class _Elsewhere(Exception):
    """Values are needed that are kept elsewhere: undoes the transaction, so that nothing is drawn."""

    def __init__(self, team_id: UUID, references: Sequence[Reference]) -> None:
        super().__init__()
        self.team_id = team_id
        self.references = references


class Leasing:
    """Redeems tickets, with the keys and sources of the broker."""

    def __init__(self, database: Database, sources: Mapping[str, ValueSource] | None = None) -> None:
        self._database = database
        self._sources = dict(sources or {})
        self._flights = Flights()

    async def redeem(self, opener: Opener, presented: Presented) -> Drawn:
        """The credentials of the ticket's attempt, each leased and audited. Raises Refused, Unavailable."""
        at_hand: dict[Reference, Fetched] = {}
        try:
            for _ in range(_ROUNDS):
                try:
                    return await self._draw(opener, presented, at_hand)
                except _Elsewhere as needed:
                    at_hand |= await self._fetch(needed.team_id, needed.references)
            raise Refused("what is kept elsewhere changed while it was fetched")  # noqa: TRY301 (given back below)
        except BaseException:
            await self._give_back(at_hand)
            raise

    async def _draw(self, opener: Opener, presented: Presented, at_hand: Mapping[Reference, Fetched]) -> Drawn:
        token_hash = hashlib.sha256(presented.ticket.encode()).digest()
        async with self._database.identifying(presented_hash=token_hash) as tx:
            drawn = await tx.one(SQL["draw"], token_hash, presented.connection)
            if drawn is None:
                raise Refused("the ticket is unknown, expired or used")
            await tx.serve(drawn["team_id"])
            task = await tx.one(SQL["leased_task"], drawn["task_id"], drawn["attempt"])
            if task is None:
                raise Refused("the attempt is no longer running")
            if not _is_there(task, presented):
                raise Refused("the ticket is unknown, expired or used")  # and it is not drawn: nothing is committed
            return await _Handing(tx, opener, drawn, task, at_hand).all()

    async def _fetch(self, team_id: UUID, references: Sequence[Reference]) -> dict[Reference, Fetched]:
        """What stands there now. One read for all entries of a path; the same read of two attempts at once is one."""
        paths = {(reference.source, reference.path) for reference in references}
        try:
            found = {path: await self._read(team_id, *path) for path in sorted(paths)}
        except SourceError as error:
            raise Refused(str(error)) from error
        return {reference: found[reference.source, reference.path] for reference in references}

    async def _read(self, team_id: UUID, source: str, path: str) -> Fetched:
        if source not in self._sources:
            raise SourceError(f"this instance is not set up for values in {source}")
        if path.startswith("/"):  # made for whoever asks: never shared
            return await self._sources[source].fetch(path)
        return await self._flights.share((team_id, source, path), lambda: self._sources[source].fetch(path))

    async def _give_back(self, at_hand: Mapping[Reference, Fetched]) -> None:
        leases = {(reference.source, fetched.lease_id) for reference, fetched in at_hand.items() if fetched.lease_id}
        for source, lease_id in leases:
            with suppress(SourceError, asyncio.CancelledError):  # then it runs out by itself
                await self._sources[source].revoke(str(lease_id))


def _is_there(task: Row, presented: Presented) -> bool:
    """Whether the worker came from the machine on which its attempt runs."""
    if not task["remote"]:
        return presented.proof is None
    key: bytes | None = task["public_key"]
    return presented.proof is not None and key is not None and holds(key, presented.ticket, presented.proof)


class _Handing:
    """One draw: opens what the task declares, and writes down each lease before anything leaves."""

    def __init__(self, tx: Tx, opener: Opener, drawn: Row, task: Row, at_hand: Mapping[Reference, Fetched]) -> None:
        self._tx = tx
        self._opener = opener
        self._drawn = drawn
        self._task = task
        self._at_hand = at_hand
        self._made = Drawn()
        self._needed: list[Reference] = []

    async def all(self) -> Drawn:
        """Raises Refused, _Elsewhere."""
        declared: Sequence[Mapping[str, Any]] = self._task["credentials"]
        names = [item["name"] for item in declared if item["type"] == "secret"]
        rows = {row["name"]: row for row in await self._tx.all(SQL["sealed_secrets"], names)}
        for item in declared:
            if item["type"] == "secret":
                await self._secret(item, rows.get(item["name"]))
            elif item["type"] == "integration":
                await self._integration(item)
            else:
                raise Refused(f"this release leases no credentials of type {item['type']}")
        if self._needed:
            raise _Elsewhere(self._drawn["team_id"], self._needed)
        taken = [credential["env"] for credential in self._made.credentials]
        if twice := {name for name in taken if taken.count(name) > 1}:
            raise Refused(f"two credentials set {min(twice)}")
        return self._made

    async def _secret(self, item: Mapping[str, Any], row: Row | None) -> None:
        if row is None:
            raise Refused(f"the secret {item['name']} no longer exists")
        place = secret_place(
            secret_id=row["id"],
            team_id=self._drawn["team_id"],
            name=row["name"],
            version=row["value_of"],
            is_reference=row["is_reference"],
        )
        value, fetched, source = self._open(row, place, f"the secret {row['name']}").decode(), None, None
        if row["is_reference"]:
            reference = msgspec.json.decode(value, type=Reference)
            fetched, source = self._at_hand.get(reference), reference.source
            if fetched is None:
                self._needed.append(reference)
                return
            value = _entry(fetched, reference, row["name"])
        lease_id = fetched.lease_id if fetched else None
        await self._lease("secret", row["name"], row["version"], source, lease_id)
        self._made.credentials.append({"type": "secret", "name": row["name"], "env": item["env"], "value": value})

    async def _integration(self, item: Mapping[str, Any]) -> None:
        provider, project = item["provider"], item.get("project")
        row = await self._tx.one(SQL["find_integration"], provider, project)
        if row is None:
            raise Refused(f"the integration {provider} no longer exists")
        opened = open_integration(self._opener, self._drawn["team_id"], row)
        await self._lease("integration", provider, 1, None, None)
        for variable, (value, hidden) in variables(provider, opened.credentials).items():
            credential = {"type": "integration", "name": provider, "env": variable, "value": value}
            self._made.credentials.append(credential if hidden else {**credential, "open": True})
        if login := git_login(provider, opened):
            self._made.git.append({"base": login.base, "header": login.header})

    def _open(self, row: Row, place: Place, what: str) -> bytes:
        return open_row(self._opener, row, place, what)

    async def _lease(self, kind: str, name: str, version: int, source: str | None, source_id: str | None) -> None:
        task_id, attempt = self._drawn["task_id"], self._drawn["attempt"]
        await self._tx.execute(SQL["add_lease"], task_id, attempt, kind, name, version, source, source_id)
        detail: dict[str, Any] = {"task": str(task_id), "attempt": attempt, "version": version}
        if source:
            detail["source"] = source
        await audit.record(self._tx, self._task["created_by"], "credential.lease", f"{kind}:{name}", detail)


def _entry(fetched: Fetched, reference: Reference, name: str) -> str:
    value = fetched.values.get(reference.key)
    if value is None:
        raise Refused(f"the secret {name} refers to an entry that {reference.source} does not have there")
    if len(value) < SHORTEST_VALUE:
        raise Refused(f"the value of the secret {name} in {reference.source} is too short to be hidden in output")
    return value


def open_row(opener: Opener, row: Row, place: Place, what: str) -> bytes:
    """What is sealed in a row. Raises Refused: it was moved or changed in the database."""
    sealed = Sealed(key_version=row["key_version"], sealed_key=row["sealed_key"], ciphertext=row["ciphertext"])
    try:
        return opener.open(sealed, place)
    except UnknownKey as error:
        raise KeysChanged(f"{what} cannot be opened: its key is not here") from error
    except CannotOpen as error:
        log.warning("a stored value cannot be opened: it was moved or changed in the database", table=place.table)
        raise Refused(f"{what} cannot be opened; set it again") from error


def open_integration(opener: Opener, team_id: UUID, row: Row) -> Credentials:
    """What is sealed of an integration. Raises Refused."""
    place = integration_place(integration_id=row["id"], team_id=team_id, provider=row["provider"])
    return msgspec.json.decode(open_row(opener, row, place, f"the integration {row['provider']}"), type=Credentials)
