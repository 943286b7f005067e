"""Writing the audit trail, and reading it. Sealing is the auditor's: `sealer.py`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from sfp_server.audit.tag import tag
from sfp_server.db.database import Row, Tx
from sfp_server.db.queries import load
from sfp_server.web.logs import current_request_id

SQL = load(__package__ or "", "audit.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which entries; None: all."""

    actor: str | None = None
    #: one that ends in a full stop is the beginning of actions, as in `session.`
    action: str | None = None
    subject: str | None = None
    since: datetime | None = None
    until: datetime | None = None


async def record(tx: Tx, actor_label: str, action: str, subject: str, detail: Mapping[str, Any] | None = None) -> None:
    """Append one entry, in the team of the transaction (none before sign-in).

    Args:
        actor_label: `Actor.label`, or `anonymous`, or the name of a service.
        action: a dotted past fact, as in `application_token.revoked`.
        subject: what it was done to, as in `application_token:<id>`.
        detail: JSON-safe and free of secrets.

    Raises Unavailable: an action whose entry cannot be written must not happen.
    """
    plain = msgspec.to_builtins(dict(detail or {}))
    request_id = current_request_id()
    made = tx.audit_key and tag(
        tx.audit_key,
        team=str(tx.team_id) if tx.team_id else None,
        actor=actor_label,
        action=action,
        subject=subject,
        detail=plain,
        request_id=request_id,
    )
    await tx.execute(SQL["record"], actor_label, action, subject, plain, request_id, made)


async def listed(tx: Tx, wanted: Filter, *, before: int | None, limit: int) -> Sequence[Row]:
    """Entries of the actor's team, newest first, before the entry with the id `before`."""
    return await tx.all(
        SQL["list"], wanted.actor, wanted.action, wanted.subject, wanted.since, wanted.until, before, limit
    )
