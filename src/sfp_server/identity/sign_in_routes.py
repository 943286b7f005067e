"""Signing in through the browser: away to a provider and back, for clients (a code) and for the browser (a cookie)."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Protocol, cast

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from sfp_server.errors import FieldError, Malformed, NotFound, ProviderFailed, SignInRefused
from sfp_server.identity.browser import Browsers, Visitor
from sfp_server.identity.external import ExternalIdentity, Provider, redirect_uri
from sfp_server.identity.flows import Destination, Finished, Flow, Flows, new_secret
from sfp_server.identity.providers import Providers
from sfp_server.identity.redirects import check_redirect, is_own_path, with_parameters
from sfp_server.identity.routes import caller_of
from sfp_server.identity.sessions import Caller, Sessions
from sfp_server.identity.sign_in_page import SIGN_IN, choice
from sfp_server.settings import Settings
from sfp_server.web import pages
from sfp_server.web.guard import PUBLIC
from sfp_server.web.wire import ApiRequest, Wire

_CHALLENGE = r"^[A-Za-z0-9_-]{43}$"


class Identifies(Protocol):
    """What OpenID Connect and GitHub have beyond `Method`: the browser brings their answer in its query."""

    async def identify(
        self,
        provider: Provider,
        answer: Mapping[str, str],
        *,
        secret: str | None,
        state: str,
        browser: str,
        redirect_uri: str,
    ) -> ExternalIdentity:
        """Raises SignInRefused, ProviderFailed."""
        ...


@get(
    "/auth/authorize",
    opt={"scope": PUBLIC, "answers": {**pages.ANSWERS, 303: ""}, "errors": (NotFound,)},
    exception_handlers=dict(pages.ERRORS),
)
async def authorize(
    request: ApiRequest,
    providers: NamedDependency[Providers],
    sessions: NamedDependency[Sessions],
    flows: NamedDependency[Flows],
    browsers: NamedDependency[Browsers],
    settings: NamedDependency[Settings],
    redirect_to: Annotated[str, QueryParameter(name="redirect_to", max_length=2000)],
    code_challenge: Annotated[str, QueryParameter(name="code_challenge", pattern=_CHALLENGE)],
    code_challenge_method: Annotated[Literal["S256"], QueryParameter(name="code_challenge_method")],
    provider: Annotated[str | None, QueryParameter(max_length=63)] = None,
    client_state: Annotated[str | None, QueryParameter(name="state", max_length=500)] = None,
) -> Response[bytes]:
    """Sign in and come back to `redirect_to` with a code; without `provider` the person chooses. PKCE always."""
    del code_challenge_method  # there is one
    check_redirect(redirect_to, origin=settings.origin, allowed=settings.redirects())
    to = Destination(redirect_to=redirect_to, client_state=client_state, client_challenge=code_challenge)
    visitor = await browsers.visitor(request)
    if provider is None:
        return browsers.remember(await choice(visitor, to, providers=providers, sessions=sessions), visitor)
    return await _send_away(
        await providers.find(provider),
        to,
        request=request,
        visitor=visitor,
        providers=providers,
        flows=flows,
        browsers=browsers,
        origin=settings.origin,
    )


@get(
    "/auth/sign-in/{provider_id:str}",
    opt={"scope": PUBLIC, "answers": {**pages.ANSWERS, 303: ""}},
    exception_handlers=dict(pages.ERRORS),
)
async def sign_in_through(
    provider_id: FromPath[str],
    request: ApiRequest,
    providers: NamedDependency[Providers],
    flows: NamedDependency[Flows],
    browsers: NamedDependency[Browsers],
    settings: NamedDependency[Settings],
    continue_to: Annotated[str, QueryParameter(name="continue", max_length=2000)] = SIGN_IN,
) -> Response[bytes]:
    """Sign this browser in through a provider, then go on to a page of this server."""
    if not is_own_path(continue_to):
        raise Malformed("continue must be a path", errors=(FieldError(path="continue", message="must be a path"),))
    return await _send_away(
        await providers.find(provider_id),
        Destination(continue_to=continue_to),
        request=request,
        visitor=await browsers.visitor(request),
        providers=providers,
        flows=flows,
        browsers=browsers,
        origin=settings.origin,
    )


@get(
    "/auth/callback/{provider_id:str}",
    opt={"scope": PUBLIC, "answers": {**pages.ANSWERS, 303: ""}, "errors": (SignInRefused, ProviderFailed)},
    exception_handlers=dict(pages.ERRORS),
)
async def callback(
    provider_id: FromPath[str],
    request: ApiRequest,
    providers: NamedDependency[Providers],
    flows: NamedDependency[Flows],
    browsers: NamedDependency[Browsers],
    settings: NamedDependency[Settings],
    flow_state: Annotated[str, QueryParameter(name="state", max_length=500)] = "",
) -> Response[bytes]:
    """Where a provider sends the browser back, with a code or an error."""
    provider = await providers.find(provider_id)
    method = providers.method(provider.kind)
    if not hasattr(method, "identify"):
        raise NotFound("this provider comes back elsewhere")
    browser = browsers.secret_of(request)
    flow = await flows.use(provider_id, state=flow_state, browser=browser)
    assert browser is not None  # else there is no flow
    caller = caller_of(request)
    try:
        identity = await _identified(
            cast("Identifies", method),
            provider,
            request,
            providers=providers,
            state=flow_state,
            browser=browser,
            origin=settings.origin,
        )
    except SignInRefused as error:
        await flows.refused(provider.slug, error, caller)
        return back_to_client(flow, error)
    except ProviderFailed as error:
        return back_to_client(flow, error)
    return await finish(provider, flow, identity, caller=caller, flows=flows, browsers=browsers)


async def finish(
    provider: Provider, flow: Flow, identity: ExternalIdentity, *, caller: Caller, flows: Flows, browsers: Browsers
) -> Response[bytes]:
    """The answer to a browser whose provider has vouched for somebody: back to the client, or on as a signed-in one."""
    try:
        finished = await flows.finish(provider, flow, identity, caller)
    except SignInRefused as error:
        return back_to_client(flow, error)
    return gone_on(flow.destination, finished, browsers)


def gone_on(to: Destination, finished: Finished, browsers: Browsers) -> Response[bytes]:
    """The answer to a browser that has signed in."""
    if to.redirect_to is not None:
        return pages.redirect(with_parameters(to.redirect_to, code=finished.code, state=to.client_state))
    assert finished.cookie is not None  # a flow without a client ends in the browser
    return browsers.sign_in(pages.redirect(to.continue_to or SIGN_IN), finished.cookie)


def back_to_client(flow: Flow, error: SignInRefused | ProviderFailed) -> Response[bytes]:
    """Tell the client that waits (RFC 6749, 4.1.2.1); where none does, raise the error for a page."""
    to = flow.destination
    if to.redirect_to is None:
        raise error
    name = "server_error" if isinstance(error, ProviderFailed) else "access_denied"
    return pages.redirect(
        with_parameters(to.redirect_to, error=name, error_description=str(error), state=to.client_state)
    )


class PublicProvider(Wire):
    id: str
    name: str
    kind: str


class Config(Wire):
    deployment_mode: str
    #: `passwordLogin`: everyone, owners or off
    sso: dict[str, bool | str]
    providers: list[PublicProvider]
    features: dict[str, bool]


@get("/config", opt={"scope": PUBLIC})
async def config(providers: NamedDependency[Providers], sessions: NamedDependency[Sessions]) -> Config:
    """What a client needs to know before it signs in."""
    enabled = await providers.enabled()
    return Config(
        deployment_mode="selfhosted",
        sso={"enabled": bool(enabled), "passwordLogin": await sessions.who_has_passwords()},
        providers=[PublicProvider(id=one.slug, name=one.name, kind=one.kind) for one in enabled],
        features={"realtime": True, "applicationTokens": True, "secrets": True},
    )


ROUTES = [authorize, sign_in_through, callback, config]


async def _send_away(
    provider: Provider,
    to: Destination,
    *,
    request: ApiRequest,
    visitor: Visitor,
    providers: Providers,
    flows: Flows,
    browsers: Browsers,
    origin: str,
) -> Response[bytes]:
    """Send the browser to the provider, and remember that it was sent."""
    state = new_secret()
    method = providers.method(provider.kind)
    sent = await method.send(
        provider, state=state, browser=visitor.browser, redirect_uri=redirect_uri(provider, origin)
    )
    await flows.begin(provider, sent, state=state, browser=visitor.browser, to=to, caller=caller_of(request))
    return browsers.remember(pages.redirect(sent.url), visitor)


async def _identified(
    method: Identifies,
    provider: Provider,
    request: ApiRequest,
    *,
    providers: Providers,
    state: str,
    browser: str,
    origin: str,
) -> ExternalIdentity:
    """Whom the provider's answer vouches for. Raises SignInRefused, ProviderFailed."""
    query: Any = request.query_params
    return await method.identify(
        provider,
        {name: str(query.get(name)) for name in ("code", "error", "iss") if name in query},
        secret=providers.secret(provider),
        state=state,
        browser=browser,
        redirect_uri=redirect_uri(provider, origin),
    )
