"""Identity providers, for the administrators of the instance."""

from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from uuid import UUID

import msgspec
from litestar import Response, delete, get, post
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, JSONBody

from sfp_server.actor import Actor
from sfp_server.errors import Conflict, FieldError, Malformed, Unprocessable
from sfp_server.identity.external import Provider, ProviderKind, redirect_uri
from sfp_server.identity.providers import Providers, Wanted
from sfp_server.settings import Settings
from sfp_server.web.paging import Page
from sfp_server.web.wire import Wire

Slug = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=2000)]
Domain = Annotated[str, msgspec.Meta(min_length=1, max_length=253)]

#: fields that each kind takes, the first ones of which it needs
_FIELDS: dict[ProviderKind, tuple[tuple[str, ...], tuple[str, ...]]] = {
    ProviderKind.OIDC: (("issuer", "clientId"), ()),
    ProviderKind.GITHUB: (("clientId",), ("baseUrl", "apiUrl")),
    ProviderKind.SAML: ((), ("metadataUrl", "metadataXml")),
}


class SetProvider(Wire):
    #: told by the other fields when it is missing: `issuer` is oidc, `metadataUrl` or `metadataXml` is saml
    kind: Literal["oidc", "github", "saml"] | None = None
    #: its name in URLs; made from its address when it is missing
    provider_id: Slug | None = None
    #: its name on a button
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=100)] | None = None
    issuer: Text | None = None
    client_id: Text | None = None
    #: goes in and never comes out; may be left out when the provider has one already
    client_secret: Text | None = None
    #: of GitHub Enterprise
    base_url: Text | None = None
    api_url: Text | None = None
    metadata_url: Text | None = None
    metadata_xml: Annotated[str, msgspec.Meta(min_length=1, max_length=512 * 1024)] | None = None
    #: e-mail domains that it may speak for; none: any
    domains: Annotated[list[Domain], msgspec.Meta(max_length=100)] = msgspec.field(default_factory=list[Domain])
    #: whom it vouches for becomes a user; only with `domains`
    create_users: bool = False
    #: it may also sign in users who are linked to another provider, by their verified address
    shares_users: bool = False
    #: where created users belong, and as what
    default_team: Slug | None = None
    default_role: Literal["member", "owner"] = "member"
    enabled: bool = True


class ProviderRow(Wire):
    id: UUID
    provider_id: str
    name: str
    kind: str
    #: `issuer`, `clientId`, … as far as its kind has them
    config: dict[str, Any]
    has_secret: bool
    domains: list[str]
    create_users: bool
    shares_users: bool
    default_team: str | None
    default_role: str
    enabled: bool
    #: what the provider must be told
    redirect_uri: str
    created_at: datetime
    updated_at: datetime


class RemoveProvider(Wire):
    provider_id: Slug


class Removed(Wire):
    success: bool


@get("/sso/providers", opt={"scope": "sso:manage"})
async def list_providers(
    actor: NamedDependency[Actor], providers: NamedDependency[Providers], settings: NamedDependency[Settings]
) -> Page[ProviderRow]:
    """Every identity provider, without secrets. For owners of the instance's first team, acting in it."""
    return Page(items=[_row(provider, settings.origin) for provider in await providers.all(actor)])


@post(
    "/sso/providers",
    opt={"scope": "sso:manage", "errors": (Conflict, Unprocessable)},
    responses={
        200: ResponseSpec(ProviderRow, description="It was there, and is like this now", generate_examples=False)
    },
)
async def set_provider(
    data: JSONBody[SetProvider],
    actor: NamedDependency[Actor],
    providers: NamedDependency[Providers],
    settings: NamedDependency[Settings],
) -> Response[ProviderRow]:
    """Make a provider, or make the one of this name like this (200): repeating is safe."""
    provider, is_new = await providers.set(actor, _wanted(data))
    return Response(_row(provider, settings.origin), status_code=201 if is_new else 200)


@delete("/sso/providers/{provider_id:str}", opt={"scope": "sso:manage"}, status_code=200)
async def remove_provider(
    provider_id: FromPath[str], actor: NamedDependency[Actor], providers: NamedDependency[Providers]
) -> Removed:
    """Remove a provider and its links to users. Twice is fine."""
    await providers.remove(actor, provider_id)
    return Removed(success=True)


@delete("/sso/providers", opt={"scope": "sso:manage"}, status_code=200)
async def remove_named_provider(
    data: JSONBody[RemoveProvider], actor: NamedDependency[Actor], providers: NamedDependency[Providers]
) -> Removed:
    """The same, with the name in the body."""
    await providers.remove(actor, data.provider_id)
    return Removed(success=True)


ROUTES = [list_providers, set_provider, remove_provider, remove_named_provider]


def _wanted(data: SetProvider) -> Wanted:
    """Raises Malformed."""
    kind = _kind(data)
    given = msgspec.to_builtins(data)
    needed, optional = _FIELDS[kind]
    missing = [name for name in needed if given[name] is None]
    if kind is ProviderKind.SAML and not (data.metadata_url or data.metadata_xml):
        missing = ["metadataUrl"]
    others = {name for both in _FIELDS.values() for names in both for name in names} - {*needed, *optional}
    wrong = [FieldError(path=name, message=f"is needed for the kind {kind}") for name in missing]
    wrong += [
        FieldError(path=name, message=f"is not for the kind {kind}")
        for name in sorted(others)
        if given[name] is not None
    ]
    if wrong:
        raise Malformed("; ".join(f"{one.path} {one.message}" for one in wrong), errors=tuple(wrong))
    slug = data.provider_id or _slug(data, kind)
    return Wanted(
        slug=slug,
        name=data.name or slug,
        kind=kind,
        config={name: given[name] for name in (*needed, *optional) if given[name] is not None},
        secret=data.client_secret,
        domains=tuple(dict.fromkeys(domain.strip().lower() for domain in data.domains)),
        create_users=data.create_users,
        shares_users=data.shares_users,
        default_team=data.default_team,
        default_role=data.default_role,
        enabled=data.enabled,
    )


def _kind(data: SetProvider) -> ProviderKind:
    if data.kind is not None:
        return ProviderKind(data.kind)
    if data.issuer is not None:
        return ProviderKind.OIDC
    if data.metadata_url is not None or data.metadata_xml is not None:
        return ProviderKind.SAML
    message = "is needed: oidc, github or saml"
    raise Malformed(f"kind {message}", errors=(FieldError(path="kind", message=message),))


def _slug(data: SetProvider, kind: ProviderKind) -> str:
    """A name from the provider's address, the same each time."""
    try:
        host = urlsplit(data.issuer or data.base_url or data.metadata_url or "").hostname or ""
    except ValueError:
        host = ""
    plain = "".join(sign if sign.isascii() and sign.isalnum() else "-" for sign in host.lower())
    return plain.strip("-")[:63].strip("-") or kind


def _row(provider: Provider, origin: str) -> ProviderRow:
    return ProviderRow(
        id=provider.id,
        provider_id=provider.slug,
        name=provider.name,
        kind=provider.kind,
        config=dict(provider.config),
        has_secret=provider.sealed_secret is not None,
        domains=list(provider.domains),
        create_users=provider.create_users,
        shares_users=provider.shares_users,
        default_team=provider.default_team,
        default_role=provider.default_role,
        enabled=provider.enabled,
        redirect_uri=redirect_uri(provider, origin),
        created_at=provider.created_at,
        updated_at=provider.updated_at,
    )
