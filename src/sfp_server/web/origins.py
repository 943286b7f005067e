"""Which names this server answers to, and whose pages may speak to it.

A request that names another host is refused: a page whose own name was made to lead to this machine (DNS rebinding)
says that name. Pages of other origins get no CORS header, unless `cors.allowOrigins` names theirs exactly; cookies
are never meant for them (no `Access-Control-Allow-Credentials`). Who has no `Origin` is no page.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from sfp_server.errors import Forbidden, SfpError
from sfp_server.web.asgi import Scope
from sfp_server.web.headers import sent_value

#: names of this machine, wherever the instance is meant to be reached
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
#: load balancers ask by address, and learn nothing but whether it is well
_ASKED_BY_ADDRESS = "/health"

_METHODS = b"GET, POST, PUT, PATCH, DELETE"
_SENT = b"Authorization, Content-Type, Idempotency-Key, If-Match, Last-Event-ID, Range, X-Request-Id, X-Sfp-Team"
_SHOWN = b"Content-Disposition, Content-Range, ETag, RateLimit, RateLimit-Policy, Retry-After, X-Request-Id"
#: seconds that a browser may remember what a preflight said
_REMEMBERED = b"600"


class Misdirected(SfpError):
    """The request names a host that this instance does not answer to."""

    code = "misdirected"
    status = 421
    title = "Not this server"


class ForeignOrigin(Forbidden):
    """A page of another origin asked for something that only the instance's own pages may."""

    code = "foreign_origin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origins:
    """The names of one instance, and the origins that it lets in."""

    hosts: frozenset[str]
    allowed: frozenset[str]

    @classmethod
    def of(cls, domains: Iterable[str], allowed: Iterable[str]) -> "Origins":
        return cls(hosts=LOOPBACK | {domain.lower() for domain in domains}, allowed=frozenset(allowed))

    def check_host(self, scope: Scope) -> None:
        """Raises Misdirected. No Host at all is an old program's, never a browser's."""
        host = sent_value(scope, b"host")
        if host and _name(host) not in self.hosts and scope["path"] != _ASKED_BY_ADDRESS:
            raise Misdirected("this server does not answer to the name in Host")

    def is_foreign(self, scope: Scope) -> bool:
        """True for a page of neither this server nor an allowed origin; `null` is somebody's, so it is foreign."""
        origin = sent_value(scope, b"origin")
        if not origin or origin in self.allowed:
            return False
        try:
            parts = urlsplit(origin)
        except ValueError:
            return True
        own = {sent_value(scope, b"host").lower()}
        # a proxy of the operator's may have put another name into Host
        named = {name for name in self.hosts - LOOPBACK if parts.scheme == "https" and parts.hostname == name}
        return parts.scheme not in {"http", "https"} or not (parts.netloc in own or named)

    def refuse_foreign(self, scope: Scope) -> None:
        """Raises ForeignOrigin."""
        if self.is_foreign(scope):
            raise ForeignOrigin("pages of other origins may not do this; an admin can name them in cors.allowOrigins")

    def answer_fields(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """What an answer says to a page of an allowed origin; nothing where none is allowed."""
        if not self.allowed:
            return []
        fields = [(b"vary", b"Origin")]
        origin = sent_value(scope, b"origin")
        if origin in self.allowed:
            fields += [(b"access-control-allow-origin", origin.encode()), (b"access-control-expose-headers", _SHOWN)]
        return fields

    def is_preflight(self, scope: Scope) -> bool:
        """True for a browser's question in front of a request of an allowed origin."""
        asks = scope["method"] == "OPTIONS" and sent_value(scope, b"access-control-request-method")
        return bool(asks) and sent_value(scope, b"origin") in self.allowed

    def preflight_fields(self) -> list[tuple[bytes, bytes]]:
        return [
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", _SENT),
            (b"access-control-max-age", _REMEMBERED),
        ]


def _name(host: str) -> str:
    """`host` without its port, in small letters, without the dot of a full name."""
    name, colon, port = host.lower().rpartition(":")
    return (name if colon and port.isdigit() else host.lower()).rstrip(".")
