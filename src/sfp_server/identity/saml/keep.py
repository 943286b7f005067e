"""What the database remembers for SAML: assertions that were taken, and the metadata that was last fetched."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from sfp_server.db.database import Database, Violation
from sfp_server.db.queries import load
from sfp_server.errors import SignInRefused
from sfp_server.identity.saml.facts import Metadata

SQL = load(__package__ or "", "saml.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """Metadata from a provider's URL, and how many seconds ago it was fetched."""

    metadata: Metadata
    age: float


class Keep:
    """The use cases; each is a transaction of its own."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def take(self, provider_id: UUID, assertion_id: str, until: float) -> None:
        """Use an assertion up; until `until` (seconds since 1970) it is refused. Raises SignInRefused."""
        digest = hashlib.sha256(f"{provider_id}\n{assertion_id}".encode()).digest()
        try:
            async with self._db.identifying(presented_hash=digest) as tx:
                await tx.execute(SQL["clear_assertions"])
                await tx.execute(SQL["take_assertion"], digest, provider_id, until)
        except Violation as error:
            raise SignInRefused("this assertion was used before", reason="replay") from error

    async def fetched(self, provider_id: UUID, since: datetime) -> Fetched | None:
        """What was fetched last, after the provider was set (`since`)."""
        async with self._db.identifying() as tx:
            row = await tx.one(SQL["fetched_metadata"], provider_id, since)
        if row is None:
            return None
        return Fetched(metadata=msgspec.convert(row["facts"], Metadata), age=row["age"])

    async def claim_refresh(self, provider_id: UUID) -> bool:
        """Whether the caller is the one to fetch now."""
        async with self._db.identifying() as tx:
            return await tx.one(SQL["claim_refresh"], provider_id) is not None

    async def keep(self, provider_id: UUID, metadata: Metadata) -> None:
        facts: dict[str, Any] = msgspec.to_builtins(metadata)
        async with self._db.identifying() as tx:
            await tx.execute(SQL["keep_metadata"], provider_id, facts)
