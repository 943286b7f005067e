"""Identity providers and what they say about somebody: words and rules, no I/O."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from sfp_server.errors import SignInRefused

#: an address that may be compared letter by letter: ASCII only, or two letters that look alike could be one
_EMAIL = re.compile(r"[!#-'*+./0-9=?A-Z^_`a-z{|}~-]{1,200}@[A-Za-z0-9.-]{1,200}")
_DOMAIN = re.compile(r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?|localhost")


class ProviderKind(StrEnum):
    OIDC = "oidc"
    GITHUB = "github"
    SAML = "saml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """An identity provider of this instance."""

    id: UUID
    #: its name in URLs and commands
    slug: str
    #: its name on a button
    name: str
    kind: ProviderKind
    #: what its kind needs: `issuer`, `clientId`, … No secret
    config: Mapping[str, Any]
    sealed_secret: bytes | None
    domains: tuple[str, ...]
    create_users: bool
    shares_users: bool
    default_team: str | None
    default_role: str
    enabled: bool
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalIdentity:
    """Whom a provider vouches for; made only from an answer that was verified."""

    provider_id: UUID
    #: the provider's unchanging name for this person, 1 to 255 characters
    subject: str
    email: str
    email_verified: bool
    first_name: str = ""
    last_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Who may be signed in: a user who exists and is not disabled."""

    id: UUID
    email: str


class Method(Protocol):
    """How browsers sign in through one kind of provider. `browser` is the secret of the browser's cookie."""

    async def check(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration completed, and proved as far as possible. Raises Malformed, Unprocessable."""
        ...

    async def send(self, provider: Provider, *, state: str, browser: str, redirect_uri: str) -> "Sent":
        """Where to send the browser. Raises ProviderFailed."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A request to a provider: its URL, and its id where the answer will name that."""

    url: str
    request_id: str | None = None


def normal_email(email: str) -> str:
    """The address as users have it. Raises SignInRefused for one that cannot be compared safely."""
    text = email.strip()
    if _EMAIL.fullmatch(text) is None or not is_domain(text.rpartition("@")[2].lower()):
        raise SignInRefused("the provider names an e-mail address that this server cannot use", reason="email_form")
    return text.lower()


def is_domain(text: str) -> bool:
    """Whether `text` is the name of an e-mail domain, in lower case."""
    return len(text) <= 253 and _DOMAIN.fullmatch(text) is not None


def may_speak_for(domains: tuple[str, ...], email: str) -> bool:
    """Whether a provider that is restricted to `domains` (none: unrestricted) may vouch for `email` (normal)."""
    return not domains or email.rpartition("@")[2] in domains


def redirect_uri(provider: Provider, origin: str) -> str:
    """Where this provider sends browsers back: a URL of its own, so that answers of two cannot be mixed up."""
    if provider.kind is ProviderKind.SAML:
        return f"{origin}/sfp/api/auth/saml/{provider.slug}/acs"
    return f"{origin}/sfp/api/auth/callback/{provider.slug}"
