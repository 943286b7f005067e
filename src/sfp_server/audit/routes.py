"""`/audit` and receipts: the trail of the team, whether it is whole, and what can be checked without us."""

from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter
from litestar.response import Stream

from sfp_proof.keys import KeyRing
from sfp_server.actor import Actor
from sfp_server.audit import service
from sfp_server.audit.asking import Auditor
from sfp_server.audit.rows import sealed_of
from sfp_server.db.database import Database, Row
from sfp_server.errors import NotFinished
from sfp_server.web.guard import PUBLIC
from sfp_server.web.paging import DEFAULT_LIMIT, Cursor, Limit, Page, after_number, page
from sfp_server.web.times import aware
from sfp_server.web.wire import Wire

#: entries that an export reads at once
_BATCH = 1000
_Text = Annotated[str | None, QueryParameter(min_length=1, max_length=300)]
_From = Annotated[datetime | None, QueryParameter(name="from")]
_To = Annotated[datetime | None, QueryParameter(name="to")]
#: seconds of a long poll
_Wait = Annotated[float, QueryParameter(ge=0, le=25)]
_Run = Annotated[str | None, QueryParameter(max_length=40)]


class AuditEntry(Wire):
    id: int
    at: datetime
    actor: str
    #: the actor's e-mail address or token name of today, for reading; null when there is none (any more)
    actor_name: str | None
    action: str
    subject: str
    detail: dict[str, Any]
    request_id: str
    #: number in the team's chain (null for sign-ins, which are in no team's) and time of the seal (null: not yet)
    entry: int | None
    sealed_at: datetime | None


class Place(Wire):
    #: number in the team's chain; of a range, its first and last
    entry: int | None = None
    last: int | None = None
    id: int | None = None
    at: str | None = None
    team: str | None = None


class AuditProblem(Wire):
    kind: str
    place: Place
    detail: str


class CheckedTo(Wire):
    entry: int
    id: int
    at: str
    #: stands for everything up to here
    mark: str


class Verification(Wire):
    #: null while it is under way
    ok: bool | None
    complete: bool
    #: ask again with it to wait on
    run: str
    #: entries read so far
    entries: int
    checked_to: CheckedTo | None = None
    unsealed: int = 0
    #: lines of the checkpoint files that it was compared with
    checkpoints: int = 0
    problems: list[AuditProblem] = msgspec.field(default_factory=list[AuditProblem])
    more_problems: int = 0


class Jwks(Wire):
    keys: list[dict[str, str]]


class Receipt(Wire):
    receipt: dict[str, Any]
    signature: dict[str, str]


@get("/audit", opt={"scope": "audit:read"})
async def list_audit(
    actor: NamedDependency[Actor],
    db: NamedDependency[Database],
    by: Annotated[str | None, QueryParameter(name="actor", min_length=1, max_length=300)] = None,
    action: _Text = None,
    subject: _Text = None,
    since: _From = None,
    until: _To = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[AuditEntry]:
    """What was done in the team, newest first. An action that ends in a full stop (`session.`) means all below it."""
    wanted = service.Filter(
        actor=by, action=action, subject=subject, since=aware(since, "from"), until=aware(until, "to")
    )
    async with db.transaction(actor) as tx:
        rows = await service.listed(tx, wanted, before=after_number(cursor), limit=limit + 1)
    return page([_entry(row) for row in rows], limit, key=lambda entry: entry.id)


@get("/audit/verify", opt={"scope": "audit:read"})
async def verify_audit(
    actor: NamedDependency[Actor], auditor: NamedDependency[Auditor], run: _Run = None, wait: _Wait = 20
) -> Verification:
    """Check the team's chain and name each place that is not as it was sealed.

    A long chain takes longer than `wait` seconds: ask again with `run` of the answer.
    """
    assert actor.team_id is not None  # the scope is an owner's
    report = await auditor.verify(team=actor.team_id, run=run, wait=wait)
    return msgspec.convert({"ok": None, **report}, Verification)


@get("/audit/export", opt={"scope": "audit:read"}, media_type="application/x-ndjson")
async def export_audit(actor: NamedDependency[Actor], db: NamedDependency[Database]) -> Stream:
    """Every sealed entry of the team with its seal, a line of JSON each: what `audit verify --offline` reads."""
    return Stream(_lines(db, actor), media_type="application/x-ndjson")


@get("/audit/.well-known/jwks.json", opt={"scope": PUBLIC})
async def audit_keys(audit_keys: NamedDependency[KeyRing]) -> Response[Jwks]:
    """The public keys that check the audit trail and receipts, oldest first."""
    return Response(Jwks(keys=audit_keys.jwks()["keys"]), headers={"Cache-Control": "public, max-age=300"})


@get("/tasks/{task_id:uuid}/receipt", opt={"scope": "tasks:read", "errors": (NotFinished,)})
async def task_receipt(
    task_id: FromPath[UUID], actor: NamedDependency[Actor], auditor: NamedDependency[Auditor]
) -> Receipt:
    """Who asked, what ran, with what, and how it ended, signed; 409 before it has ended."""
    assert actor.team_id is not None  # without a team nobody has the scope
    return msgspec.convert(await auditor.receipt(team=actor.team_id, task=task_id), Receipt)


def _entry(row: Row) -> AuditEntry:
    return AuditEntry(
        id=row["id"],
        at=row["at"],
        actor=row["actor"],
        actor_name=row["actor_name"],
        action=row["action"],
        subject=row["subject"],
        detail=row["detail"],
        request_id=row["request_id"],
        entry=row["team_seq"],
        sealed_at=row["sealed_at"],
    )


async def _lines(db: Database, actor: Actor) -> AsyncGenerator[bytes]:
    """Batch after batch, each in a transaction of its own: a slow reader holds none open."""
    number = -(2**63)  # below every number, also of entries that somebody else has put there
    while True:
        async with db.transaction(actor) as tx:
            rows = await tx.all(service.SQL["team_sealed_after"], number, _BATCH, actor.team_id)
        if not rows:
            return
        yield b"".join(msgspec.json.encode(sealed_of(row).as_json()) + b"\n" for row in rows)
        number = rows[-1]["team_seq"]


ROUTES = [list_audit, verify_audit, export_audit, audit_keys, task_receipt]
