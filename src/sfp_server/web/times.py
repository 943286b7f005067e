"""Times that come in queries."""

from datetime import UTC, datetime

from sfp_server.errors import FieldError, Malformed


def aware(at: datetime | None, name: str) -> datetime | None:
    """The time as the database takes it: with a zone, and within its calendar in UTC. Raises Malformed."""
    if at is None:
        return None
    message = "needs a time zone, as in 2026-01-01T00:00:00Z"
    if at.tzinfo is not None:
        try:
            return at.astimezone(UTC)
        except OverflowError:
            message = "lies outside the calendar"
    raise Malformed(f"{name}: {message}", errors=(FieldError(path=name, message=message),))
