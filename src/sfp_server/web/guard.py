"""Who may call a route. A route says which scope opens it, or that it is public; silence is refused.

    @get("/tasks", opt={"scope": "tasks:read"})
    @get("/health", opt={"scope": PUBLIC})

A route below `/teams/{slug}` says `"team": "path"`, one that takes `?team=` says `"team": "query"`: the caller then
acts in that team, with the role it has there. Where the body names the team, the guard asks only whether the caller has
the scope in any team (`"anywhere": True`), and the handler asks again.

The order is 401, then 403, then 404 and 400: nothing of the request is parsed for somebody who may not send it.

A page of a foreign origin changes nothing here, with or without a cookie (CSRF). A route that other people's pages post
to on purpose (an identity provider that sends a person back) says so, and has a proof of its own in what is posted:

    @post("/auth/saml/acs", opt={"scope": PUBLIC, "cross_origin": True})
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from sfp_server.actor import Actor
from sfp_server.errors import Forbidden, Unauthenticated
from sfp_server.web.asgi import Scope, ip_address_in
from sfp_server.web.origins import Origins
from sfp_server.web.ratelimit import RateLimiter

PUBLIC = "public"
#: methods that change nothing
SAFE = {"GET", "HEAD", "OPTIONS"}


class Authenticate(Protocol):
    async def __call__(self, token: str, *, team: str | None, address: str = "") -> Actor:
        """Raises Unauthenticated (or what is below it), NotFound for a team that is not the caller's, Unavailable."""
        ...


def bearer(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    """The token of the Authorization header. Raises Unauthenticated."""
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    token = token.strip(" \t")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("send a token: Authorization: Bearer …")
    return token


def address_of(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    """The caller's IP address as the edge saw it; empty when there is none."""
    return ip_address_in(cast("Scope", connection.scope))


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """The one guard of the application: finds the actor, asks for the scope, counts the request."""

    authenticate: Authenticate
    limiter: RateLimiter
    origins: Origins
    #: requests per minute of one actor, 0: unlimited
    actor_limit: int

    async def __call__(self, connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        scope = cast("Scope", connection.scope)
        if scope.get("method", "GET") not in SAFE and not handler.opt.get("cross_origin"):
            self.origins.refuse_foreign(scope)
        needed = handler.opt.get("scope")
        if needed == PUBLIC:
            return
        team = _team_of(connection, handler)
        actor = await self.authenticate(bearer(connection), team=team, address=address_of(connection))
        connection.scope["user"] = actor
        self.limiter.check(scope, actor.label, "actor", self.actor_limit)
        decision = decide(handler.opt, actor)
        if not decision.allowed:
            raise Forbidden(decision.reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Whether somebody may do something, and by which rule."""

    allowed: bool
    #: `public`, `scope:<scope>`, `undeclared`
    rule: str
    reason: str


def decide(opt: Mapping[str, Any], actor: Actor) -> Decision:
    """The one place that says whether an actor may use a route that declares `opt`."""
    needed: object = opt.get("scope")
    if needed == PUBLIC:
        return Decision(allowed=True, rule=PUBLIC, reason="everybody may")
    if not isinstance(needed, str):
        return Decision(allowed=False, rule="undeclared", reason="this route declares no scope")
    scopes = actor.anywhere if opt.get("anywhere") else actor.scopes
    if needed not in scopes:
        return Decision(allowed=False, rule=f"scope:{needed}", reason=f"this needs the scope {needed}")
    return Decision(allowed=True, rule=f"scope:{needed}", reason=f"{actor.label} has it as {actor.role}")


def _team_of(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> str | None:
    """The slug of the team that the caller wants to act in: one that the path or query names overrides the header."""
    named: str | None = None
    match handler.opt.get("team"):
        case "path":
            named = connection.path_params["slug"]
        case "query":
            named = connection.query_params.get("team")
        case _:
            pass
    return named or connection.headers.get("x-sfp-team") or None
