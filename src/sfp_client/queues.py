"""Queues: how deep they are, and how many tasks run at once."""

from typing import Any
from urllib.parse import quote

from sfp_client.transport import Transport, given


class Queues:
    """The queues of the instance, as the team sees them."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> list[dict[str, Any]]:
        """`{name, slots, paused, pending, active}` of each."""
        return self._transport.json("GET", "/queues")["items"]

    def set(self, name: str, *, slots: int | None = None, paused: bool | None = None) -> dict[str, Any]:
        """Change a queue at once; running tasks finish. Owners only."""
        body = given({"slots": slots, "paused": paused})
        return self._transport.json("PATCH", f"/queues/{quote(name, safe='')}", body=body)
