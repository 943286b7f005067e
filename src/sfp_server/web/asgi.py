"""The types of ASGI as plain dictionaries: Litestar's own are closed and know nothing of keys that we add."""

import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def ip_address_in(scope: Scope) -> str:
    """The caller's IP address; empty for a unix socket, and for whatever else a forwarding header may hold."""
    client = scope.get("client")
    try:
        return str(ipaddress.ip_address(client[0])) if client else ""
    except ValueError:
        return ""
