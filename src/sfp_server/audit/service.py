"""Writing the audit trail."""

from collections.abc import Mapping
from typing import Any

from sfp_server.db.database import Tx
from sfp_server.web.logs import current_request_id

_RECORD = """
INSERT INTO audit_log (team_id, actor, action, subject, detail, request_id)
VALUES (current_team(), $1, $2, $3, $4, $5)
"""


async def record(tx: Tx, actor_label: str, action: str, subject: str, detail: Mapping[str, Any] | None = None) -> None:
    """Append one entry, in the team of the transaction (none before sign-in).

    Args:
        actor_label: `Actor.label`, or `anonymous`, or the name of a service.
        action: a dotted past fact, as in `application_token.revoked`.
        subject: what it was done to, as in `application_token:<id>`.
        detail: JSON-safe and free of secrets.

    Raises Unavailable: an action whose entry cannot be written must not happen.
    """
    await tx.execute(_RECORD, actor_label, action, subject, dict(detail or {}), current_request_id())
