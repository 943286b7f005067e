"""Scopes, and which role has which: the table of product.md. No I/O."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
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
    HEALTH_READ = "health:read"


#: of every signed-in user, with or without a team
NO_TEAM = frozenset({Scope.USERS_SELF, Scope.TEAMS_READ})

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
    Role.APPLICATION: frozenset(_WORKING | {Scope.TASKS_CANCEL_ANY, Scope.LOGS_DELETE, Scope.INTEGRATIONS_CREDENTIALS}),
}

#: what an application has only if somebody said so
_BY_NAME_ONLY = frozenset({Scope.INTEGRATIONS_CREDENTIALS})


def granted(asked: Iterable[str] | None) -> list[str]:
    """The scopes of a new application token: those asked for, or what the role has without asking.

    Raises Malformed for a scope that is unknown or that no application may have.
    """
    allowed = SCOPES[Role.APPLICATION]
    if asked is None:
        return sorted(allowed - _BY_NAME_ONLY)
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
