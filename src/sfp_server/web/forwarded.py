"""Where a request really comes from: who may say so, and nobody else.

Limits, allowed addresses of tokens and the audit trail stand on the caller's address, and the API sees only the edge's.
The edge tells in `X-Forwarded-For`, and proves with a secret that it is the edge: other programs on this machine reach
the API's port too. Without an edge of our own (`caddy: false`) the proxy in front has no secret; then whoever comes
from this machine is believed, and the last entry counts, which is the one that the proxy itself wrote.
"""

import hmac
import ipaddress
from dataclasses import dataclass

from sfp_server.web.asgi import App, Receive, Scope, Send

_PROOF, _FOR, _SCHEME = b"x-sfp-edge", b"x-forwarded-for", b"x-forwarded-proto"
_SCHEMES = {("http", b"https"): "https", ("websocket", b"https"): "wss", ("websocket", b"wss"): "wss"}


@dataclass(slots=True, kw_only=True)
class Forwarded:
    """The outermost ASGI layer: puts the caller's address and scheme into the scope."""

    app: App
    #: what the edge shows; None: there is none of ours
    edge_key: bytes | None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in {"http", "websocket"}:
            sent: dict[bytes, bytes] = dict(scope["headers"])
            if self._is_proxy(scope, sent.get(_PROOF, b"")):
                _believe(scope, sent)
            if _PROOF in sent:
                scope["headers"] = [(name, value) for name, value in scope["headers"] if name != _PROOF]
        await self.app(scope, receive, send)

    def _is_proxy(self, scope: Scope, proof: bytes) -> bool:
        if self.edge_key is not None:
            return hmac.compare_digest(proof, self.edge_key)
        client = scope.get("client")
        try:
            return client is not None and ipaddress.ip_address(client[0]).is_loopback
        except ValueError:
            return False


def _believe(scope: Scope, sent: dict[bytes, bytes]) -> None:
    """What is no address changes nothing. Of repeated header fields the last counts, as of their entries."""
    last = sent.get(_FOR, b"").decode("latin-1").rpartition(",")[2].strip()
    try:
        scope["client"] = (str(ipaddress.ip_address(last)), 0)
    except ValueError:
        pass
    else:
        scope["scheme"] = _SCHEMES.get((scope["type"], sent.get(_SCHEME, b"")), scope.get("scheme", "http"))
