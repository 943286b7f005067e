"""The receipt of a finished task: what the auditor signs, from what it reads itself."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, cast
from uuid import UUID

from sfp_proof.canonical import canonical
from sfp_proof.checkpoint import Head
from sfp_server.audit.service import SQL
from sfp_server.db.database import Database, Row, Tx
from sfp_server.errors import NotFinished, NotFound

_FINAL = {"completed", "failed", "cancelled"}


async def compose(
    database: Database, *, team: UUID, task: UUID, instance: str, head: Head, signed_at: str
) -> dict[str, Any]:
    """Everything that a receipt says of a task; names, versions and hashes, never a value of a secret.

    Args:
        database: of the role `sfp_auditor`.
        head: how far the audit trail has come.

    Raises NotFound, NotFinished, Unavailable.
    """
    async with database.serving(team) as tx:
        row = await tx.one(SQL["receipt_task"], task)
        if row is None:
            raise NotFound("there is no such task")
        if row["status"] not in _FINAL:
            raise NotFinished("the task has not ended yet: there is a receipt when it has")
        attempts = await tx.all(SQL["receipt_attempts"], task)
        leases = await tx.all(SQL["receipt_leases"], task)
        artifacts = await tx.all(SQL["receipt_artifacts"], task)
        inputs = await _inputs(tx, row["data"])
    return {
        "version": 1,
        "instance": instance,
        "team": row["team"],
        "task": str(row["id"]),
        "asked": _asked(row),
        "ran": _ran(row),
        "inputs": inputs,
        "credentials": _credentials(row, leases),
        "attempts": [_attempt(attempt) for attempt in attempts],
        "artifacts": [_plain(artifact, "name", "size", "sha256", "attempt") for artifact in artifacts],
        "ended": {
            "status": row["status"],
            "at": row["finished_at"],
            "error": row["error"],
            "cancelledBy": row["cancelled_by"],
            "resultSha256": _sha256(row["result"]),
        },
        "audit": {"entry": head.seq, "mark": head.mark.hex()},
        "signedAt": signed_at,
    }


def _asked(row: Row) -> dict[str, Any]:
    return {
        "by": row["created_by"],
        "name": row["created_by_name"],
        "at": row["created_at"],
        "requestId": row["request_id"],
        "retryOf": str(row["retry_of"]) if row["retry_of"] else None,
        "series": str(row["series_id"]) if row["series_id"] else None,
    }


def _ran(row: Row) -> dict[str, Any]:
    """What was asked to be run; the hash of `argv` is of its canonical JSON."""
    argv = json.loads(row["data"]).get("argv")
    return {
        "type": row["type"],
        "dataSha256": _sha256(row["data"]),
        "argvSha256": None if argv is None else hashlib.sha256(canonical(argv)).hexdigest(),
        "labels": json.loads(row["labels"]),
        "priority": row["priority"],
        "network": row["network"],
        "toolchain": row["toolchain"],
        "startedAt": row["started_at"],
    }


async def _inputs(tx: Tx, data: str) -> dict[str, Any]:
    """The workspace: an artifact with its hash, a repository with what was asked of it, or files by their hash."""
    workspace: Any = json.loads(data).get("workspace")
    if not isinstance(workspace, dict):
        return {}
    given = cast("dict[str, Any]", workspace)  # it was checked when the task was submitted
    if isinstance(git := given.get("git"), dict):
        return {"git": {"url": git["url"], "ref": git.get("ref")}}  # pyright: ignore[reportUnknownMemberType] (plain JSON)
    if artifact := given.get("artifact"):
        rows = await tx.all(SQL["receipt_inputs"], [UUID(artifact)])
        known = [{"id": str(row["id"]), **_plain(row, "name", "size", "sha256")} for row in rows]
        return {"artifacts": known or [{"id": artifact}]}
    return {"filesSha256": hashlib.sha256(canonical(given.get("files"))).hexdigest()}


def _credentials(row: Row, leases: Sequence[Row]) -> dict[str, Any]:
    """What the task declared, and what each attempt drew."""
    return {
        "declared": row["credentials"],
        "leased": [
            {
                "kind": of["kind"],
                "attempt": of["attempt"],
                "name": of["name"],
                "version": of["version"],
                "at": of["leased_at"],
            }
            for of in leases
        ],
    }


def _attempt(row: Row) -> dict[str, Any]:
    return {
        "number": row["attempt"],
        "status": row["status"],
        "runtime": row["runtime"],
        "worker": row["handle"],
        "dispatcher": row["dispatcher"],
        "serverVersion": row["version"],
        "toolchains": row["toolchains"] or {},
        "startedAt": row["started_at"],
        "endedAt": row["ended_at"],
        "exitCode": row["exit_code"],
        "signal": row["signal"],
        "error": row["error"],
        "usageSha256": _sha256(row["usage"]),
    }


def _plain(row: Row, *names: str) -> dict[str, Any]:
    return {name: row[name] for name in names}


def _sha256(text: str | None) -> str | None:
    """Of JSON as PostgreSQL prints it."""
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()
