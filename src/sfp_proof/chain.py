"""What an entry of the audit trail says, what its seal adds, and how seals hang on each other.

An entry is written by whoever does what it tells of, inside the same transaction. The auditor, a process of its own and
the only one with the signing key, seals it afterwards: a number in the whole trail and one in its team's, the marks of
the entries before it in both, its own clock, and a signature over all that and the entry itself. A *mark* is the hash
of a seal with its signature; so each seal stands for everything before it, and can also be checked alone.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sfp_proof.canonical import digest

#: the mark before the first entry
BEGINNING = bytes(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry, as it is hashed: text exactly as the database prints it."""

    id: int
    #: None: before there was a team (sign-ins), or of the instance itself
    team: str | None
    #: UTC, `2026-11-24 02:00:00.123456` without trailing zeros
    at: str
    actor: str
    action: str
    subject: str
    #: JSON, as PostgreSQL prints `jsonb`
    detail: str
    request_id: str
    #: with which the writing process vouches for it, hex
    tag: str | None

    def digest(self) -> bytes:
        return digest(
            [
                "sfp.audit.entry.v1",
                self.id,
                self.team,
                self.at,
                self.actor,
                self.action,
                self.subject,
                self.detail,
                self.request_id,
                self.tag,
            ]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """What the auditor adds; its signature stands beside it, in Sealed."""

    #: of all entries of the instance, from 1 without holes
    seq: int
    #: of the entries of the same team, from 1 without holes
    team_seq: int
    #: the mark of entry `seq` - 1, and of the team's entry `team_seq` - 1
    previous: bytes
    team_previous: bytes
    #: the auditor's clock; as `Entry.at`
    sealed_at: str
    key_id: str
    #: whether the entry's tag was made by a process of the instance
    attested: bool

    def digest(self, entry: Entry) -> bytes:
        """What is signed: this seal on that entry."""
        return digest(
            [
                "sfp.audit.seal.v1",
                self.seq,
                self.team_seq,
                entry.digest().hex(),
                self.previous.hex(),
                self.team_previous.hex(),
                self.sealed_at,
                self.key_id,
                self.attested,
            ]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """An entry with its seal and the signature."""

    entry: Entry
    seal: Seal
    signature: bytes

    def mark(self) -> bytes:
        return mark(self.seal.digest(self.entry), self.signature)

    def as_json(self) -> dict[str, Any]:
        """One line of an export; bytes are hex."""
        entry, seal = self.entry, self.seal
        return {
            "id": entry.id,
            "team": entry.team,
            "at": entry.at,
            "actor": entry.actor,
            "action": entry.action,
            "subject": entry.subject,
            "detail": entry.detail,
            "requestId": entry.request_id,
            "tag": entry.tag,
            "seq": seal.seq,
            "teamSeq": seal.team_seq,
            "previous": seal.previous.hex(),
            "teamPrevious": seal.team_previous.hex(),
            "sealedAt": seal.sealed_at,
            "keyId": seal.key_id,
            "attested": seal.attested,
            "signature": self.signature.hex(),
        }

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> "Sealed":
        """The inverse of `as_json`. Raises ValueError for a line that is none."""
        try:
            return cls(
                entry=Entry(
                    id=_is(int, line["id"]),
                    team=None if line["team"] is None else _is(str, line["team"]),
                    at=_is(str, line["at"]),
                    actor=_is(str, line["actor"]),
                    action=_is(str, line["action"]),
                    subject=_is(str, line["subject"]),
                    detail=_is(str, line["detail"]),
                    request_id=_is(str, line["requestId"]),
                    tag=None if line["tag"] is None else _is(str, line["tag"]),
                ),
                seal=Seal(
                    seq=_is(int, line["seq"]),
                    team_seq=_is(int, line["teamSeq"]),
                    previous=bytes.fromhex(line["previous"]),
                    team_previous=bytes.fromhex(line["teamPrevious"]),
                    sealed_at=_is(str, line["sealedAt"]),
                    key_id=_is(str, line["keyId"]),
                    attested=_is(bool, line["attested"]),
                ),
                signature=bytes.fromhex(line["signature"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError("not an entry of an audit trail") from error


def mark(sealed_digest: bytes, signature: bytes) -> bytes:
    """The mark of a seal whose digest and signature these are."""
    return hashlib.sha256(sealed_digest + signature).digest()


def spelled(at: datetime) -> str:
    """A time in UTC as PostgreSQL prints a timestamp: without trailing zeros."""
    return f"{at:%Y-%m-%d %H:%M:%S}" + (f".{at:%f}".rstrip("0") if at.microsecond else "")


def _is(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value
