"""The page on which a signed-in person lets a device in: type the code, see who asks, say yes or no."""

from typing import Annotated, Literal
from urllib.parse import urlencode

import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import QueryParameter, URLEncodedBody

from sfp_server.errors import NotFound, TooManyRequests
from sfp_server.identity.browser import Browsers, Visitor
from sfp_server.identity.device import DeviceFlow, Waiting
from sfp_server.identity.routes import caller_of
from sfp_server.identity.sign_in_page import SIGN_IN
from sfp_server.web import pages
from sfp_server.web.guard import PUBLIC
from sfp_server.web.wire import ApiRequest

DEVICE = "/sfp/api/auth/device"

_OPT = {"scope": PUBLIC, "answers": {**pages.ANSWERS, 303: ""}}
UserCode = Annotated[str, msgspec.Meta(max_length=40)]


class CodeForm(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A code to look at, or, with `decision`, to decide about."""

    csrf: Annotated[str, msgspec.Meta(max_length=100)]
    user_code: UserCode
    decision: Literal["approve", "deny"] | None = None


@get("/auth/device", opt=_OPT, exception_handlers=dict(pages.ERRORS))
async def show(
    request: ApiRequest,
    browsers: NamedDependency[Browsers],
    user_code: Annotated[str, QueryParameter(name="user_code", max_length=40)] = "",
) -> Response[bytes]:
    """Type the code that a device shows; who is not signed in does that first."""
    visitor = await browsers.visitor(request)
    if visitor.person is None:
        return _sign_in_first(user_code)
    return _asking(visitor, user_code)


@post("/auth/device", opt=_OPT, status_code=200, exception_handlers=dict(pages.ERRORS))
async def decide(
    data: URLEncodedBody[CodeForm],
    request: ApiRequest,
    browsers: NamedDependency[Browsers],
    device_flow: NamedDependency[DeviceFlow],
) -> Response[bytes]:
    """See which device shows this code, then let it in or refuse it."""
    visitor = await browsers.visitor(request)
    if visitor.person is None:
        return _sign_in_first(data.user_code)
    visitor.check_csrf(data.csrf)
    caller, person = caller_of(request), visitor.person
    try:
        if data.decision is None:
            return _deciding(visitor, data.user_code, await device_flow.waiting(data.user_code, person.id, caller))
        approve = data.decision == "approve"
        await device_flow.decide(data.user_code, person.id, caller, approve=approve)
    except (NotFound, TooManyRequests) as error:
        return _asking(visitor, "", error=str(error), status=error.status)
    title = "The device is signed in" if approve else "The device was refused"
    said = "You can close this page; the device goes on by itself." if approve else "You can close this page."
    return pages.page(title, pages.heading(title), pages.paragraph(said))


ROUTES = [show, decide]


def _sign_in_first(user_code: str) -> Response[bytes]:
    here = f"{DEVICE}?{urlencode({'user_code': user_code})}" if user_code else DEVICE
    return pages.redirect(f"{SIGN_IN}?{urlencode({'continue': here})}")


def _asking(visitor: Visitor, user_code: str, *, error: str = "", status: int = 200) -> Response[bytes]:
    assert visitor.person is not None  # callers have seen to it
    return pages.page(
        "Sign in a device",
        pages.heading("Sign in a device"),
        *([pages.paragraph(error, "error")] if error else []),
        pages.paragraph(f"You are signed in as {visitor.person.email}. Which code does the device show?"),
        pages.form(
            DEVICE, visitor.csrf, pages.field("user_code", "Code", value=user_code[:40]), pages.button("Continue")
        ),
        status=status,
    )


def _deciding(visitor: Visitor, user_code: str, device: Waiting) -> Response[bytes]:
    assert visitor.person is not None  # callers have seen to it
    shown = user_code.upper()
    return pages.page(
        "Sign in a device",
        pages.heading("Let this device act as you?"),
        pages.big_code(shown),
        pages.paragraph(f"It says of itself: {device.client or 'nothing'}", "who"),
        pages.paragraph(
            f"It asked from the address {device.address or 'unknown'}, at {device.created_at:%H:%M} UTC.", "who"
        ),
        pages.paragraph(
            "Agree only if you yourself began this a moment ago, and the device in front of you shows this code. "
            "Whoever sent you the code or a link to this page would get everything that you may do "
            f"as {visitor.person.email}.",
            "warning",
        ),
        pages.form(
            DEVICE,
            visitor.csrf,
            pages.button("Refuse", name="decision", value="deny", is_main=False),
            pages.button("Sign in this device", name="decision", value="approve"),
            hidden={"user_code": user_code},
        ),
    )
