"""Scopes, and which role has which: the table of product.md. No I/O."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from uuid import UUID

from sfp_server.actor import Role
from sfp_server.errors import FieldError, Malformed


class Scope(StrEnum):
    """What a route may ask for. Routes name it as text: `opt={"scope": "tasks:read"}`."""

    TASKS_READ = "tasks:read"
    TASKS_WRITE = "tasks:write"
    TASKS_CANCEL_ANY = "tasks:cancel-any"
    LOGS_READ = "logs:read"
    LOGS_DELETE = "logs:delete"
    ARTIFACTS_READ = "artifacts:read"
    ARTIFACTS_WRITE = "artifacts:write"
    QUEUES_READ = "queues:read"
    QUEUES_WRITE = "queues:write"
    DISPATCHERS_READ = "dispatchers:read"
    EVENTS_READ = "events:read"
    AUDIT_READ = "audit:read"
    SECRETS_MANAGE = "secrets:manage"
    LEASES_READ = "leases:read"
    INTEGRATIONS_MANAGE = "integrations:manage"
    INTEGRATIONS_CREDENTIALS = "integrations:credentials"
    PROJECTS_READ = "projects:read"
    PROJECTS_WRITE = "projects:write"
    APPLICATION_TOKENS_MANAGE = "application-tokens:manage"
    SSO_MANAGE = "sso:manage"
    TEAMS_READ = "teams:read"
    TEAMS_MANAGE = "teams:manage"
    USERS_MANAGE = "users:manage"
    USERS_SELF = "users:self"
    AUTHZ_CHECK = "authz:check"
    HEALTH_READ = "health:read"


#: of every signed-in user, with or without a team
NO_TEAM = frozenset({Scope.USERS_SELF, Scope.TEAMS_READ, Scope.AUTHZ_CHECK})

_READING = frozenset(
    {
        Scope.TASKS_READ,
        Scope.LOGS_READ,
        Scope.ARTIFACTS_READ,
        Scope.QUEUES_READ,
        Scope.EVENTS_READ,
        Scope.HEALTH_READ,
        Scope.PROJECTS_READ,
    }
)
_WORKING = _READING | {Scope.TASKS_WRITE, Scope.ARTIFACTS_WRITE}

SCOPES: dict[Role, frozenset[str]] = {
    Role.MEMBER: frozenset(_WORKING | NO_TEAM),
    Role.OWNER: frozenset(Scope),
    # never users, teams, secrets or application tokens: a leaked token must not make itself more
    Role.APPLICATION: frozenset(
        _WORKING | {Scope.TASKS_CANCEL_ANY, Scope.LOGS_DELETE, Scope.INTEGRATIONS_CREDENTIALS, Scope.AUTHZ_CHECK}
    ),
}

#: what an application has only if somebody said so
BY_NAME_ONLY = frozenset({Scope.INTEGRATIONS_CREDENTIALS})


def granted(asked: Iterable[str] | None, allowed: frozenset[str]) -> list[str]:
    """The scopes of a new application token: those asked for, or what of `allowed` the role has without asking.

    Raises Malformed for a scope that is unknown or that no application may have.
    """
    if asked is None:
        return sorted(allowed - BY_NAME_ONLY)
    wanted = sorted(set(asked))
    wrong = [scope for scope in wanted if scope not in allowed]
    if wrong:
        choice = ", ".join(sorted(allowed))
        raise Malformed(
            f"scopes: an application cannot have {', '.join(wrong)[:200]}; choose from {choice}",
            errors=tuple(
                FieldError(path="scopes", message=f"an application cannot have {scope[:100]}") for scope in wrong
            ),
        )
    return wanted


Network = IPv4Network | IPv6Network

#: networks of one token
_NETWORKS_MAX = 50


def networks(texts: Sequence[str]) -> list[Network]:
    """Allowed addresses as networks: `192.0.2.0/24`, `2001:db8::/32`, or a single address.

    Raises Malformed; also for bits set beyond the prefix, which would mean something else to its reader.
    """
    if len(texts) > _NETWORKS_MAX:
        raise Malformed(f"allowedAddresses: {_NETWORKS_MAX} at most")
    found: list[Network] = []
    for number, text in enumerate(texts):
        try:
            network = ip_network(text)
        except ValueError as error:
            raise _no_network(number) from error
        if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None:
            raise _no_network(number)
        found.append(network)
    return found


def is_within(address: str, allowed: Sequence[Network]) -> bool:
    """Whether an address may use what only these networks may. IPv4 in IPv6's clothes is IPv4."""
    if not allowed:
        return True
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return any(parsed in network for network in allowed)


def _no_network(number: int) -> Malformed:
    path, message = f"allowedAddresses[{number}]", "an address, or a network as 192.0.2.0/24 or 2001:db8::/32"
    return Malformed(f"{path}: {message}", errors=(FieldError(path=path, message=message),))


class TokenStatus(StrEnum):
    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationToken:
    """An application token as its owner sees it; the token's own text is known to nobody but its holder."""

    id: UUID
    name: str
    team: str
    scopes: list[str]
    created_at: datetime
    created_by: str
    expires_at: datetime
    revoked_at: datetime | None
    last_used_at: datetime | None
    last_used_address: str | None
    #: networks that it may be used from; none: it may be used from anywhere
    allowed_addresses: list[Network]
    #: made by the exchange of a CI system's token
    from_ci: bool

    def status(self, now: datetime) -> TokenStatus:
        if self.revoked_at is not None:
            return TokenStatus.REVOKED
        return TokenStatus.ACTIVE if now < self.expires_at else TokenStatus.EXPIRED


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A person, before a team is chosen."""

    id: UUID
    email: str
    first_name: str
    last_name: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """One team of a user."""

    team_id: UUID
    slug: str
    name: str
    role: Role
