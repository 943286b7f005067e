"""Whoever a request comes from: a user or an application, acting in one team."""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID


class Role(StrEnum):
    """What an actor is in its team. An owner includes a member; an application stands apart."""

    MEMBER = "member"
    OWNER = "owner"
    APPLICATION = "application"


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """An authenticated caller. `scopes` is all it may do; the database sees `team_id` and `user_id`."""

    #: id of the user or of the application token
    id: UUID
    role: Role
    #: None: a user who belongs to no team; row-level security then shows no team rows
    team_id: UUID | None
    team_slug: str
    #: e-mail address or token name, for audit and display
    name: str
    scopes: frozenset[str]
    #: the session of a user; None for applications
    session_id: UUID | None = None
    #: what a user may do in any of its teams, for the few routes whose body names the team
    anywhere: frozenset[str] = frozenset()

    @property
    def is_user(self) -> bool:
        return self.role is not Role.APPLICATION

    @property
    def label(self) -> str:
        """`user:<id>` or `application:<id>`: stable, and safe to store and log."""
        return f"{'user' if self.is_user else 'application'}:{self.id}"
