"""The page on which a person signs in: providers as buttons, a form where passwords are taken; and where links go."""

from typing import Annotated
from urllib.parse import urlencode

import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import QueryParameter, URLEncodedBody

from sfp_server.errors import FieldError, Malformed, Unauthenticated
from sfp_server.identity.browser import Browsers, Visitor
from sfp_server.identity.continuing import destination
from sfp_server.identity.flows import Destination, Flows
from sfp_server.identity.providers import Providers
from sfp_server.identity.redirects import check_redirect, is_own_path, origin_of, with_parameters
from sfp_server.identity.routes import caller_of
from sfp_server.identity.sessions import Sessions
from sfp_server.settings import Settings
from sfp_server.web import pages
from sfp_server.web.guard import PUBLIC
from sfp_server.web.pages import Markup
from sfp_server.web.wire import ApiRequest

SIGN_IN = "/sfp/api/auth/sign-in"
_AUTHORIZE = "/sfp/api/auth/authorize"

_OPT = {"scope": PUBLIC, "answers": {**pages.ANSWERS, 303: ""}}
Short = Annotated[str, msgspec.Meta(max_length=2000)]


async def choice(
    visitor: Visitor, to: Destination, *, providers: Providers, sessions: Sessions, error: str = "", status: int = 200
) -> Response[bytes]:
    """The page that offers every way to sign in, each leading to `to` in the end."""
    enabled = await providers.enabled()
    passwords = await sessions.who_has_passwords()
    parts: list[Markup] = [pages.heading("Sign in")]
    if error:
        parts.append(pages.paragraph(error, "error"))
    parts += [pages.link(f"Sign in with {one.name}", _url_through(one.slug, to)) for one in enabled]
    if passwords != "off":
        parts += [pages.rule()] if enabled else []
        parts.append(
            pages.form(
                SIGN_IN,
                visitor.csrf,
                pages.field("email", "E-mail", kind="email", autocomplete="username"),
                pages.field("password", "Password", kind="password", autocomplete="current-password"),
                pages.button("Sign in", is_main=not enabled),
                hidden=_carried(to),
            )
        )
    if enabled and passwords == "owners":
        parts.append(pages.paragraph("Passwords are for owners; everybody else uses the button above.", "small"))
    if not enabled and passwords == "off":
        parts.append(pages.paragraph("There is no way to sign in: an administrator has to set one up.", "warning"))
    targets = [origin_of(to.redirect_to)] if to.redirect_to is not None else []
    return pages.page("Sign in", *parts, status=status, form_targets=targets)


@get("/auth/sign-in", opt=_OPT, exception_handlers=dict(pages.ERRORS))
async def show(
    request: ApiRequest,
    providers: NamedDependency[Providers],
    sessions: NamedDependency[Sessions],
    browsers: NamedDependency[Browsers],
    continue_to: Annotated[str | None, QueryParameter(name="continue", max_length=2000)] = None,
) -> Response[bytes]:
    """The sign-in page; who has signed in is told so, and can sign out."""
    to = _inside(continue_to)
    visitor = await browsers.visitor(request)
    if visitor.person is None:
        return browsers.remember(await choice(visitor, to, providers=providers, sessions=sessions), visitor)
    if to.continue_to is not None:
        return pages.redirect(to.continue_to)
    out = pages.form("/sfp/api/auth/sign-out", visitor.csrf, pages.button("Sign out", is_main=False))
    said = f"This browser is signed in as {visitor.person.email}."
    return pages.page("Signed in", pages.heading("Signed in"), pages.paragraph(said, "who"), out)


class PasswordForm(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, rename={"continue_to": "continue"}):
    """As browsers send it."""

    csrf: Short
    email: Annotated[str, msgspec.Meta(max_length=320)]
    password: Annotated[str, msgspec.Meta(max_length=1024)]
    continue_to: Short | None = None
    redirect_to: Short | None = None
    state: Short | None = None
    code_challenge: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{43}$")] | None = None


class OnlyCsrf(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A form that says nothing but who sent it."""

    csrf: Short


@post(
    "/auth/sign-in", opt={**_OPT, "errors": (Unauthenticated,)}, status_code=200, exception_handlers=dict(pages.ERRORS)
)
async def sign_in(
    data: URLEncodedBody[PasswordForm],
    request: ApiRequest,
    providers: NamedDependency[Providers],
    sessions: NamedDependency[Sessions],
    flows: NamedDependency[Flows],
    browsers: NamedDependency[Browsers],
    settings: NamedDependency[Settings],
) -> Response[bytes]:
    """Sign in with a password, from the form of the sign-in page."""
    visitor = await browsers.visitor(request)
    visitor.check_csrf(data.csrf)
    to = _destination(data, settings)
    caller = caller_of(request)
    try:
        person = await sessions.recognise(data.email, data.password, caller)
    except Unauthenticated as error:
        again = await choice(visitor, to, providers=providers, sessions=sessions, error=str(error), status=401)
        return browsers.remember(again, visitor)
    finished = await flows.admit(person, to, via="password", caller=caller)
    if to.redirect_to is not None:
        return pages.redirect(with_parameters(to.redirect_to, code=finished.code, state=to.client_state))
    return browsers.sign_in(pages.redirect(to.continue_to or SIGN_IN), finished.cookie or "")


@post("/auth/sign-out", opt=_OPT, status_code=200, exception_handlers=dict(pages.ERRORS))
async def sign_out(
    data: URLEncodedBody[OnlyCsrf], request: ApiRequest, browsers: NamedDependency[Browsers]
) -> Response[bytes]:
    """End this browser's session."""
    visitor = await browsers.visitor(request)
    visitor.check_csrf(data.csrf)
    return await browsers.sign_out(pages.redirect(SIGN_IN), visitor)


@get("/auth/continue", opt=_OPT, exception_handlers=dict(pages.ERRORS))
async def go_on(
    request: ApiRequest,
    browsers: NamedDependency[Browsers],
    action: Annotated[str, QueryParameter(max_length=100)],
    params: Annotated[str, QueryParameter(max_length=2000)] = "",
) -> Response[bytes]:
    """Sign in, then go on to what the link is for."""
    path = destination(action, params)
    visitor = await browsers.visitor(request)
    if visitor.person is None:
        here = f"/sfp/api/auth/continue?{urlencode({'action': action, 'params': params})}"
        return pages.redirect(f"{SIGN_IN}?{urlencode({'continue': here})}")
    return pages.redirect(path)


ROUTES = [show, sign_in, sign_out, go_on]


def _inside(continue_to: str | None) -> Destination:
    """On inside this server. Raises Malformed."""
    if continue_to is not None and not is_own_path(continue_to):
        message = "must be a path of this server"
        raise Malformed(f"continue {message}", errors=(FieldError(path="continue", message=message),))
    return Destination(continue_to=continue_to)


def _destination(data: PasswordForm, settings: Settings) -> Destination:
    """Where the form leads: checked again, since forms can be made by anybody. Raises Malformed."""
    if data.redirect_to is None:
        return _inside(data.continue_to)
    if data.code_challenge is None:
        raise Malformed("code_challenge is missing")
    return Destination(
        redirect_to=check_redirect(data.redirect_to, origin=settings.origin, allowed=settings.redirects()),
        client_state=data.state,
        client_challenge=data.code_challenge,
    )


def _carried(to: Destination) -> dict[str, str | None]:
    return {
        "continue": to.continue_to,
        "redirect_to": to.redirect_to,
        "state": to.client_state,
        "code_challenge": to.client_challenge,
    }


def _url_through(slug: str, to: Destination) -> str:
    if to.redirect_to is None:
        return with_parameters(f"{SIGN_IN}/{slug}", **{"continue": to.continue_to})
    return with_parameters(
        _AUTHORIZE,
        provider=slug,
        redirect_to=to.redirect_to,
        state=to.client_state,
        code_challenge=to.client_challenge,
        code_challenge_method="S256",
    )
