"""Integrations: connected providers. Credentials are sealed; the broker opens them for tasks and applications."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from sfp_server.actor import Actor
from sfp_server.audit import service as audit
from sfp_server.credentials.model import integration_place
from sfp_server.credentials.projects import SQL
from sfp_server.credentials.providers import Credentials
from sfp_server.credentials.public import PublicKeys
from sfp_server.db.database import Row, Tx, Violation
from sfp_server.errors import Conflict, FieldError, NotFound, UnknownIntegration, Unprocessable


@dataclass(frozen=True, slots=True, kw_only=True)
class Integration:
    """What may be known of an integration: everything but its credentials."""

    id: UUID
    provider: str
    auth_type: str
    is_global: bool
    #: identifiers
    projects: list[str]
    config: dict[str, Any]
    created_by: str
    created_at: datetime


def _integration(row: Row) -> Integration:
    return Integration(**{name: row[name] for name in Integration.__dataclass_fields__})


async def create(
    tx: Tx,
    actor: Actor,
    keys: PublicKeys,
    *,
    provider: str,
    opened: Credentials,
    is_global: bool,
    projects: Sequence[str],
) -> Integration:
    """Connect a provider, for the whole team or for some projects.

    Raises Unprocessable: a project does not exist. Conflict: there is an integration of this provider for one of them,
    or a global one. Unavailable.
    """
    assert actor.team_id is not None  # the route's scope is an owner's
    sealer = await keys.sealer(tx)
    integration_id: UUID = await tx.value("SELECT uuid7()")
    place = integration_place(integration_id=integration_id, team_id=actor.team_id, provider=provider)
    sealed = sealer.seal(msgspec.json.encode(opened), place)
    values = (integration_id, provider, opened.auth_type, is_global, opened.config)
    try:
        await tx.execute(
            SQL["add_integration"], *values, sealed.key_version, sealed.sealed_key, sealed.ciphertext, actor.label
        )
        for number, identifier in enumerate(projects):
            await _join(tx, integration_id, provider, identifier, at=f"projects[{number}]")
    except Violation as error:
        if error.constraint not in {"integrations_one_global", "integration_projects_once"}:
            raise
        where = "for the whole team" if error.constraint == "integrations_one_global" else "for one of these projects"
        raise Conflict(f"there is an integration of {provider} {where} already: delete it first") from error
    detail = {"id": str(integration_id), "isGlobal": is_global, "projects": list(projects)}
    await audit.record(tx, actor.label, "integration.created", f"integration:{provider}", detail)
    return await get(tx, integration_id)


async def _join(tx: Tx, integration_id: UUID, provider: str, identifier: str, *, at: str) -> None:
    if await tx.one(SQL["join_project"], integration_id, provider, identifier) is None:
        message = f"there is no project {identifier}: register it first with POST /projects"
        raise Unprocessable(f"{at}: {message}", errors=(FieldError(path=at, message=message),))


async def get(tx: Tx, integration_id: UUID) -> Integration:
    """Raises NotFound."""
    row = await tx.one(SQL["get_integration"], integration_id)
    if row is None:
        raise NotFound("there is no such integration")
    return _integration(row)


async def listed(tx: Tx, *, after: UUID | None, limit: int) -> Sequence[Integration]:
    """Integrations of the team in the order of their making."""
    return [_integration(row) for row in await tx.all(SQL["list_integrations"], after, limit)]


async def delete(tx: Tx, actor: Actor, integration_id: UUID) -> None:
    """Forget an integration and its credentials. Raises NotFound."""
    row = await tx.one(SQL["delete_integration"], integration_id)
    if row is None:
        raise NotFound("there is no such integration")
    subject = f"integration:{row['provider']}"
    await audit.record(tx, actor.label, "integration.deleted", subject, {"id": str(integration_id)})


async def require_integrations(tx: Tx, wanted: Sequence[tuple[str, str | None]], *, at: str) -> None:
    """Raises UnknownIntegration for the first (provider, project) for which the actor's team has none.

    Args:
        at: where they stand in the request, for the error.
    """
    for provider, project in wanted:
        if await tx.one(SQL["has_integration"], provider, project) is None:
            message = f"there is no integration {provider}: connect it first with POST /integrations"
            raise UnknownIntegration(message, errors=(FieldError(path=at, message=message),))


def expected_entries(auth_type: str, credentials: Mapping[str, str]) -> str | None:
    """What is wrong with the entries for this way of signing in; None: nothing."""
    needed = {"token": {"token"}, "basic": {"username", "password"}}.get(auth_type, set())
    absent = sorted(needed - credentials.keys())
    return f"must have {' and '.join(absent)} for authType {auth_type}" if absent else None
