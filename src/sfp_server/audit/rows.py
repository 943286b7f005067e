"""Rows of the database as entries and seals."""

from sfp_proof.chain import Entry, Seal, Sealed
from sfp_server.db.database import Row


def entry_of(row: Row) -> Entry:
    names = ("id", "team", "at", "actor", "action", "subject", "detail", "request_id", "tag")
    return Entry(**{name: row[name] for name in names})


def sealed_of(row: Row) -> Sealed:
    """What somebody took away (a database writer may remove constraints) is read as nothing, and will not match."""
    return Sealed(
        entry=entry_of(row),
        seal=Seal(
            seq=row["seq"],
            team_seq=row["team_seq"] or 0,
            previous=row["previous"] or b"",
            team_previous=row["team_previous"] or b"",
            sealed_at=row["sealed_at"] or "",
            key_id=row["key_id"] or "",
            attested=bool(row["attested"]),
        ),
        signature=row["signature"] or b"",
    )
