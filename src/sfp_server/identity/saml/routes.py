"""The two addresses that a SAML provider knows: our metadata, and where it sends its answers."""

from typing import Annotated

import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, URLEncodedBody

from sfp_server.errors import NotFound, ProviderFailed, SignInRefused
from sfp_server.identity.browser import Browsers
from sfp_server.identity.external import Provider, ProviderKind
from sfp_server.identity.flows import Flows
from sfp_server.identity.providers import Providers
from sfp_server.identity.redirects import origin_of
from sfp_server.identity.routes import caller_of
from sfp_server.identity.saml.request import our_metadata
from sfp_server.identity.saml.service import Saml
from sfp_server.identity.sign_in_routes import back_to_client, finish
from sfp_server.web import pages
from sfp_server.web.guard import PUBLIC
from sfp_server.web.wire import ApiRequest

#: bytes: base64 of the largest answer that is read, and what browsers make of its signs
_MOST = 1024 * 1024


class ProviderAnswer(msgspec.Struct, kw_only=True, rename={"answer": "SAMLResponse", "state": "RelayState"}):
    """As browsers post it for the provider, which may add fields of its own; our page sends it once more as `again`."""

    answer: Annotated[str, msgspec.Meta(max_length=_MOST)] = ""
    state: Annotated[str, msgspec.Meta(max_length=500)] = ""
    again: Annotated[str, msgspec.Meta(max_length=10)] = ""


@get(
    "/auth/saml/{provider_id:str}/metadata",
    opt={"scope": PUBLIC, "answers": {200: "application/samlmetadata+xml"}, "errors": (NotFound,)},
)
async def metadata(
    provider_id: FromPath[str], providers: NamedDependency[Providers], saml: NamedDependency[Saml]
) -> Response[bytes]:
    """What the provider must know of this server."""
    provider = await _find(providers, provider_id)
    text = our_metadata(saml.service(provider.slug))
    return Response(text.encode(), media_type="application/samlmetadata+xml")


@post(
    "/auth/saml/{provider_id:str}/acs",
    # whose page sends this is the provider's: what it says is signed, and fits one sign-in of this browser
    opt={
        "scope": PUBLIC,
        "cross_origin": True,
        "answers": {**pages.ANSWERS, 303: ""},
        "errors": (SignInRefused, ProviderFailed),
    },
    status_code=200,
    exception_handlers=dict(pages.ERRORS),
)
async def consume(
    provider_id: FromPath[str],
    data: URLEncodedBody[ProviderAnswer],
    request: ApiRequest,
    providers: NamedDependency[Providers],
    saml: NamedDependency[Saml],
    flows: NamedDependency[Flows],
    browsers: NamedDependency[Browsers],
) -> Response[bytes]:
    """Where a provider's answer arrives."""
    provider = await _find(providers, provider_id)
    browser = browsers.secret_of(request)
    if browser is None and not data.again:
        waiting = await flows.leads_to(data.state)
        return _once_more(saml.service(provider.slug).consumer, data, [origin_of(waiting)] if waiting else [])
    flow = await flows.use(provider_id, state=data.state, browser=browser)
    caller = caller_of(request)
    try:
        identity = await saml.identity(provider, flow, data.answer)
    except SignInRefused as error:
        await flows.refused(provider.slug, error, caller)
        return back_to_client(flow, error)
    except ProviderFailed as error:
        return back_to_client(flow, error)
    return await finish(provider, flow, identity, caller=caller, flows=flows, browsers=browsers)


ROUTES = [metadata, consume]


async def _find(providers: Providers, slug: str) -> Provider:
    """Raises NotFound."""
    provider = await providers.find(slug)
    if provider.kind is not ProviderKind.SAML:
        raise NotFound("there is no such identity provider")
    return provider


def _once_more(action: str, data: ProviderAnswer, targets: list[str]) -> Response[bytes]:
    """A page that sends the same form from our own site: browsers add our cookie (SameSite=Lax) only then.

    Nothing of the answer has been looked at. Whoever has no cookie then either has not begun a sign-in here.
    """
    hidden = {"SAMLResponse": data.answer, "RelayState": data.state, "again": "1"}
    form = pages.form(action, "", pages.button("Continue"), hidden=hidden)
    text = pages.paragraph("Your identity provider has answered.")
    return pages.page("Signing in", pages.heading("Signing in"), text, form, form_targets=targets, sends_itself=True)
