"""Tags: with one, a process of the instance vouches for an entry that it writes.

Whoever can write the database, but has no key of ours, could add entries that the auditor would seal as any others. So
the API, the broker and our commands have a key of their own (`secrets/audit-key`), and the auditor says in each seal
whether the entry's tag was made with it. A tag has a nonce and is unique in the table, so a copied one does not help.
"""

import hashlib
import hmac
import json
import os
from collections.abc import Mapping
from typing import Any

from sfp_proof.canonical import canonical
from sfp_proof.chain import Entry

_NONCE = 16


def tag(
    key: bytes,
    *,
    team: str | None,
    actor: str,
    action: str,
    subject: str,
    detail: Mapping[str, Any],
    request_id: str = "",
    nonce: bytes | None = None,
) -> bytes:
    """A fresh tag for an entry that is about to be written; `detail` is plain JSON."""
    nonce = nonce or os.urandom(_NONCE)
    said = canonical(["sfp.audit.tag.v1", nonce.hex(), team, actor, action, subject, detail, request_id])
    return nonce + hmac.new(key, said, hashlib.sha256).digest()


def vouched(key: bytes, entry: Entry) -> bool:
    """Whether a process that has the key wrote exactly this."""
    given = bytes.fromhex(entry.tag or "")
    try:
        made = tag(
            key,
            team=entry.team,
            actor=entry.actor,
            action=entry.action,
            subject=entry.subject,
            detail=json.loads(entry.detail),
            request_id=entry.request_id,
            nonce=given[:_NONCE] or None,
        )
    except (ValueError, RecursionError):  # a number or a depth that none of our processes writes
        return False
    return hmac.compare_digest(given, made)
