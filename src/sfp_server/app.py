"""Composition root of the API: settings → pools and clients → routes. Nobody else constructs these.

To add a capability: append its list to `API_ROUTES` (paths below /sfp/api). Handlers get what they name
and mark (`db: NamedDependency[Database]`):

    actor: Actor                    who calls; only on routes with a scope
    db: Database                    role sfp_api
    settings: Settings
    cache: Valkey                   bytes in, bytes out; may be away at any time
    authenticator: Authenticator    for tokens that do not come in a header
    sessions, signer, answer_seal, device_flow   identity
    outgoing: Outgoing              the server's own calls to the outside
    issuers, trusted                tokens of other issuers, and of the one that the configuration trusts
    health, api_document            this page's neighbours
    kinds, store, live              task types, artifacts, live events
    public_keys, asking             the vault's public keys, the broker's desk
    auditor, audit_keys             who seals the audit trail, and the public keys of what it signs
    ends                            wakes who waits for the end of a task
    operations                      what the API can be asked to do, and which scope opens it
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast
from urllib.parse import urlsplit

from litestar import Litestar, Request, Router
from litestar.di import Provide
from litestar.types import ControllerRouterHandler
from valkey.asyncio import Valkey

from sfp_proof.keys import KeyRing
from sfp_server import health
from sfp_server.actor import Actor
from sfp_server.audit import routes as audit
from sfp_server.audit.asking import Auditor
from sfp_server.credentials import integration_routes as integrations
from sfp_server.credentials import routes as credentials
from sfp_server.credentials.asking import Asking
from sfp_server.credentials.public import PublicKeys
from sfp_server.db.database import Database
from sfp_server.events import routes as events
from sfp_server.events.live import Live
from sfp_server.events.rights import Rights
from sfp_server.identity import authz_routes, ci, ci_routes, device_page, session_routes, sign_in_page, token_routes
from sfp_server.identity import device_routes as device
from sfp_server.identity import provider_routes as identity_providers
from sfp_server.identity import routes as identity
from sfp_server.identity import sign_in_routes as sign_in
from sfp_server.identity import team_routes as teams
from sfp_server.identity import user_routes as users
from sfp_server.identity.authenticate import Authenticator
from sfp_server.identity.browser import Browsers
from sfp_server.identity.device import DeviceFlow
from sfp_server.identity.external import Method, ProviderKind
from sfp_server.identity.flows import Flows
from sfp_server.identity.github import GitHub
from sfp_server.identity.issuers import Issuers
from sfp_server.identity.jwt import Signer
from sfp_server.identity.keyset import KeySet
from sfp_server.identity.openid import OpenId
from sfp_server.identity.passwords import Passwords
from sfp_server.identity.providers import Providers
from sfp_server.identity.saml import routes as saml_routes
from sfp_server.identity.saml.keep import Keep
from sfp_server.identity.saml.room import XmlRoom
from sfp_server.identity.saml.service import Saml
from sfp_server.identity.seal import AnswerSeal, ProviderSeal
from sfp_server.identity.sessions import Sessions
from sfp_server.identity.trusted import Trusted
from sfp_server.kinds import KINDS
from sfp_server.outgoing import Outgoing
from sfp_server.settings import Settings
from sfp_server.tasks import artifact_routes as artifacts
from sfp_server.tasks import dispatcher_routes as dispatchers
from sfp_server.tasks import routes as tasks
from sfp_server.tasks.artifacts import ArtifactStore
from sfp_server.tasks.ends import Ends
from sfp_server.version import VERSION
from sfp_server.web import openapi, problems
from sfp_server.web.asgi import App
from sfp_server.web.forwarded import Forwarded
from sfp_server.web.guard import Guard
from sfp_server.web.limits import MAX_BODY, Limits
from sfp_server.web.operations import Operations
from sfp_server.web.origins import Origins
from sfp_server.web.ratelimit import RateLimiter
from sfp_server.web.wire import ApiRequest

#: everything below /sfp/api
API_ROUTES: list[ControllerRouterHandler] = [
    *identity.ROUTES,
    *identity_providers.ROUTES,
    *sign_in.ROUTES,
    *sign_in_page.ROUTES,
    *session_routes.ROUTES,
    *token_routes.ROUTES,
    *ci_routes.ROUTES,
    *authz_routes.ROUTES,
    *device.ROUTES,
    *device_page.ROUTES,
    *saml_routes.ROUTES,
    *users.ROUTES,
    *teams.ROUTES,
    *tasks.ROUTES,
    *artifacts.ROUTES,
    *dispatchers.ROUTES,
    *credentials.ROUTES,
    *integrations.ROUTES,
    *audit.ROUTES,
    *events.ROUTES,
]


def create_app(settings: Settings) -> Litestar:
    """The whole API as an ASGI application. Connects to nothing before it is started. Raises SettingsError."""
    db = Database(settings.role_url("sfp_api"), application="sfp api", size=10, audit_key=settings.audit_key())
    cache = Valkey.from_url(settings.cache_connection_url(), socket_timeout=5, socket_connect_timeout=2)  # pyright: ignore[reportUnknownMemberType] (untyped library)
    life = settings.access_token_minutes * 60
    signer = Signer(
        KeySet(settings.directory / "signing", life=life),
        issuer=f"https://{settings.domain}/sfp/api/auth",
        life=life,
        buffer=settings.expiry_buffer_seconds,
    )
    outgoing = Outgoing.of(settings)
    issuers = Issuers(outgoing)
    trusted = Trusted(settings, issuers)
    authenticator = Authenticator(db, signer, trusted)
    limiter = RateLimiter(cache)
    ends = Ends(db)
    rights = Rights(authenticator.actor)
    authenticator.tell(rights.hurry)
    live = Live(db, cache, rights)
    operations = Operations()
    passwords = Passwords()
    answer_key = settings.secret("answer-key")
    sessions = Sessions(
        db,
        signer,
        refresh_days=settings.refresh_token_days,
        passwords=passwords,
        passwords_for=settings.password_login,
    )
    saml = Saml(origin=settings.origin, outgoing=outgoing, room=XmlRoom(), keep=Keep(db))
    provided: dict[str, Any] = {
        "db": db,
        "settings": settings,
        "cache": cache,
        "authenticator": authenticator,
        "signer": signer,
        "sessions": sessions,
        "device_flow": DeviceFlow(db, sessions),
        "outgoing": outgoing,
        "issuers": issuers,
        "trusted": trusted,
        "providers": Providers(db, ProviderSeal(settings.secret("provider-key")), _methods(outgoing, issuers, saml)),
        "saml": saml,
        "flows": Flows(db, sessions),
        "browsers": Browsers(db, sessions, settings),
        "passwords": passwords,
        "answer_seal": AnswerSeal(answer_key),
        "health": health.Health(db, cache),
        "kinds": KINDS,
        "store": ArtifactStore(settings.directory / "artifacts"),
        "public_keys": _public_keys(settings),
        "asking": Asking(settings.broker_desk, settings.secret("broker-key")),
        "auditor": Auditor(settings.auditor_socket),
        "audit_keys": KeyRing.read(settings.secret("audit-public.pem")),
        "live": live,
        "ends": ends,
        "operations": operations,
        "ci_exchange": ci.Exchange(db, issuers),
    }
    dependencies = {name: _provide(value) for name, value in provided.items()}
    dependencies["actor"] = Provide(_actor, sync_to_thread=False)
    documented: list[ControllerRouterHandler] = [*health.ROUTES, Router("/sfp/api", route_handlers=API_ROUTES)]
    dependencies["api_document"] = _provide(openapi.ApiDocument(documented, list(dependencies), version=VERSION))
    origins = Origins.of({settings.domain, _name_of(settings.origin)}, settings.allowed_origins())
    guard = Guard(
        authenticate=authenticator.actor, limiter=limiter, origins=origins, actor_limit=settings.actor_rate_limit
    )
    app = Litestar(
        route_handlers=[*documented, *openapi.ROUTES],
        dependencies=dependencies,
        guards=[guard],
        exception_handlers=dict(problems.HANDLERS),
        request_class=ApiRequest,
        request_max_body_size=MAX_BODY,
        lifespan=[_running(db, cache, outgoing, [limiter.run, authenticator.watch, live.run, ends.run])],
        openapi_config=None,
        logging_config=None,
    )
    inner = cast("App", app.asgi_handler)  # Litestar's ASGI types are closed dictionaries, ours are open ones
    limits = Limits(app=inner, limiter=limiter, origins=origins, address_limit=settings.address_rate_limit)
    operations.fill(app.routes)
    edge_key = settings.secret("edge-key").encode() if settings.caddy else None
    app.asgi_handler = cast("Any", Forwarded(app=limits, edge_key=edge_key))
    return app


def _public_keys(settings: Settings) -> PublicKeys:
    """What secrets are sealed with; the first key is a file only where `init` made the vault's keys."""
    first = settings.secret_file("vault-public")
    return PublicKeys(
        vouching=settings.secret("broker-key").encode(),
        first=bytes.fromhex(first.read_text()) if first.is_file() else None,
    )


def _methods(outgoing: Outgoing, issuers: Issuers, saml: Saml) -> dict[ProviderKind, Method]:
    """How each kind of identity provider signs people in."""
    return {
        ProviderKind.OIDC: OpenId(outgoing, issuers),
        ProviderKind.GITHUB: GitHub(outgoing),
        ProviderKind.SAML: saml,
    }


def _name_of(origin: str) -> str:
    return urlsplit(origin).hostname or ""


def _provide(value: Any) -> Provide:
    return Provide(lambda: value, sync_to_thread=False)


def _actor(request: Request[Any, Any, Any]) -> Actor:
    return request.user


def _running(
    db: Database, cache: Valkey, outgoing: Outgoing, loops: list[Callable[[], Coroutine[Any, Any, None]]]
) -> Callable[[Litestar], Any]:
    """The application's own loops, from its start to its end; then connections are closed."""

    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncGenerator[None]:
        running = [asyncio.create_task(loop()) for loop in loops]
        try:
            yield
        finally:
            await _end(running)
            await outgoing.close()
            await cache.aclose()
            await db.close()

    return lifespan


async def _end(running: Sequence[asyncio.Task[None]]) -> None:
    """Cancel until they have ended, a few times: a library may swallow one cancellation."""
    left = set(running)
    for _ in range(5):
        for task in left:
            task.cancel()
        if left:
            _, left = await asyncio.wait(left, timeout=0.5)
