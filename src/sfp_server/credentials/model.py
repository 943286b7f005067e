"""Words and rules of secrets; no I/O."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sfp_server.credentials.vault import Place

#: characters of the shortest value: a shorter one cannot be told from other output, so it could not be hidden there
SHORTEST_VALUE = 4
#: versions of a secret that are kept
VERSIONS_KEPT = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """What may be known of a stored secret: everything but its value."""

    id: UUID
    name: str
    version: int
    created_by: str
    created_at: datetime
    updated_at: datetime
    #: where the value is kept instead: `{source, path, key}`
    reference: dict[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretVersion:
    """One version of a secret: when it came, from whom, and whether it is the one in use."""

    version: int
    #: the version that it brought back
    restored_from: int | None
    reference: dict[str, Any] | None
    created_by: str
    created_at: datetime
    is_current: bool


def secret_place(*, secret_id: UUID, team_id: UUID, name: str, version: int, is_reference: bool) -> Place:
    """Where a version's value is sealed: as a value, or as a reference; the one cannot be made the other."""
    field = f"{name}#reference" if is_reference else name
    return Place(table="secret_versions", row_id=secret_id, team_id=team_id, field=field, version=version)


def integration_place(*, integration_id: UUID, team_id: UUID, provider: str) -> Place:
    """Where an integration's credentials are sealed."""
    return Place(table="integrations", row_id=integration_id, team_id=team_id, field=provider, version=1)
