"""The audit trail of the team, and the public keys that check what the server has signed."""

from collections.abc import Callable, Iterator
from typing import Any

from sfp_client.transport import Transport

_CHUNK = 256 * 1024


class Audit:
    """Who did what; owners only."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(
        self,
        *,
        actor: str | None = None,
        action: str | None = None,
        subject: str | None = None,
        since: str | None = None,
        until: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> dict[str, Any]:
        """A page of entries, newest first. An `action` that ends in a full stop means all that begin so."""
        params = {
            "actor": actor,
            "action": action,
            "subject": subject,
            "from": since,
            "to": until,
            "limit": limit,
            "cursor": cursor,
        }
        return self._transport.json("GET", "/audit", params=params)

    def verify(self, *, told: Callable[[int], None] = lambda _: None) -> dict[str, Any]:
        """Have the server check the team's chain; `told` hears how many entries it has read so far."""
        report = self._transport.json("GET", "/audit/verify")
        while not report["complete"]:
            told(report["entries"])
            report = self._transport.json("GET", "/audit/verify", params={"run": report["run"]})
        return report

    def export(self) -> Iterator[bytes]:
        """Every sealed entry of the team with its seal: JSON lines, in pieces of any size."""
        with self._transport.stream("/audit/export") as response:
            yield from response.iter_bytes(_CHUNK)

    def keys(self) -> dict[str, Any]:
        """The auditor's public keys, a JWK set; public."""
        return self._transport.json("GET", "/audit/.well-known/jwks.json", anonymous=True)
