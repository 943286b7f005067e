"""What a source can be asked. No call of one takes longer than `SECONDS`, no answer is larger than `MAX_BYTES`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

#: for one call
SECONDS = 8.0
#: bytes of one answer
MAX_BYTES = 512 * 1024


class SourceError(Exception):
    """The source is away, refuses, or has no such thing. The text is for operators and owners: no value, no token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What stands at one path of a source."""

    values: Mapping[str, str]
    #: what to give back when the attempt has ended; None: there is nothing to give back
    lease_id: str | None = None


class KeySource(Protocol):
    """Keeps the ring of private keys."""

    name: str

    async def read(self) -> str | None:
        """The ring's text; None: there is none yet. Raises SourceError."""
        ...

    async def write(self, text: str) -> None:
        """Replace the ring, durably when this returns. Raises SourceError, also where the source cannot be written."""
        ...


class ValueSource(Protocol):
    """Keeps values that secrets refer to."""

    name: str

    async def fetch(self, path: str) -> Fetched:
        """What stands at `path` now. Raises SourceError."""
        ...

    async def revoke(self, lease_id: str) -> None:
        """Give a lease back; one that is over already is fine. Raises SourceError."""
        ...
