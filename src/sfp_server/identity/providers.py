"""Identity providers: set, listed and removed by the administrators of the instance.

Administrators are the owners of the instance's oldest team; the database says so (`administers_instance`), because a
provider vouches for people of every team. Client secrets go in and never come out again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sfp_server.actor import Actor
from sfp_server.audit import service as audit
from sfp_server.db.database import Database, Row, Tx, Violation
from sfp_server.db.queries import load
from sfp_server.errors import Conflict, FieldError, Forbidden, Malformed, NotFound
from sfp_server.identity.external import Method, Provider, ProviderKind, is_domain
from sfp_server.identity.seal import ProviderSeal

SQL = load(__package__ or "", "sign_in.sql")

#: what a person is called by; another value means other people
_WHO = ("issuer", "baseUrl", "apiUrl", "entityId")
#: where the secret is sent, and as whom
_WHERE = (*_WHO, "clientId")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A provider as an administrator describes it."""

    slug: str
    name: str
    kind: ProviderKind
    config: Mapping[str, Any]
    #: None: the one that is there stays
    secret: str | None
    domains: tuple[str, ...]
    create_users: bool
    shares_users: bool
    default_team: str | None
    default_role: str
    enabled: bool


class Providers:
    """The use cases. `methods`: how each kind signs people in."""

    def __init__(self, db: Database, seal: ProviderSeal, methods: Mapping[ProviderKind, Method]) -> None:
        self._db = db
        self._seal = seal
        self._methods = methods

    def method(self, kind: ProviderKind) -> Method:
        return self._methods[kind]

    def secret(self, provider: Provider) -> str | None:
        """Its client secret. Raises ProviderFailed when that cannot be read any more."""
        return None if provider.sealed_secret is None else self._seal.unseal(provider.id, provider.sealed_secret)

    async def enabled(self) -> list[Provider]:
        """Those that anybody may sign in through."""
        async with self._db.identifying() as tx:
            return [_provider(row) for row in await tx.all(SQL["providers"]) if row["enabled"]]

    async def find(self, slug: str) -> Provider:
        """One that anybody may sign in through. Raises NotFound."""
        async with self._db.identifying() as tx:
            row = await tx.one(SQL["provider"], slug)
        if row is None or not row["enabled"]:
            raise NotFound("there is no such identity provider")
        return _provider(row)

    async def all(self, actor: Actor) -> list[Provider]:
        """Every one. Raises Forbidden."""
        async with self._db.transaction(actor) as tx:
            await _only_administrators(tx)
            return [_provider(row) for row in await tx.all(SQL["providers"])]

    async def set(self, actor: Actor, wanted: Wanted) -> tuple[Provider, bool]:
        """Make it, or make the one of this name like this; answers it, and whether it is new.

        Raises Forbidden, Malformed, Conflict, Unprocessable, and what `Method.check` raises.
        """
        _check(wanted)
        async with self._db.transaction(actor) as tx:
            await _only_administrators(tx)
            before = await self._before(tx, wanted)
        # The provider is asked before anything is stored, and outside of any transaction.
        config = await self._methods[wanted.kind].check(wanted.config)
        secret = wanted.secret or (self._kept_secret(before, config) if before else None)
        async with self._db.transaction(actor) as tx:
            await _only_administrators(tx)
            made = await self._store(tx, actor, wanted, before, config=config, secret=secret)
            row = await tx.one(SQL["provider"], wanted.slug)
        assert row is not None  # stored a line above
        return _provider(row), made

    async def remove(self, actor: Actor, slug: str) -> None:
        """Remove it with all its links to users; who signed in through it stays signed in. Twice is fine."""
        async with self._db.transaction(actor) as tx:
            await _only_administrators(tx)
            if await tx.execute(SQL["remove_provider"], slug):
                await audit.record(tx, actor.label, "identity_provider.removed", f"identity_provider:{slug}")

    async def _before(self, tx: Tx, wanted: Wanted) -> Provider | None:
        row = await tx.one(SQL["provider"], wanted.slug)
        if row is None:
            return None
        before = _provider(row)
        if before.kind is not wanted.kind:
            raise Conflict(f"'{wanted.slug}' is a provider of kind {before.kind}: remove it first")
        return before

    def _kept_secret(self, before: Provider, config: Mapping[str, Any]) -> str | None:
        """The stored secret, as long as it goes where it went."""
        if before.sealed_secret is None:
            return None
        if _differs(before.config, config, _WHERE):
            message = "is needed when the provider or the client changes"
            raise Malformed(f"clientSecret {message}", errors=(FieldError(path="clientSecret", message=message),))
        return self.secret(before)

    async def _store(
        self,
        tx: Tx,
        actor: Actor,
        wanted: Wanted,
        before: Provider | None,
        *,
        config: Mapping[str, Any],
        secret: str | None,
    ) -> bool:
        moved = before if before is not None and _differs(before.config, config, _WHO) else None
        if moved is not None and await tx.value(SQL["has_identities"], moved.id):
            raise Conflict("users are linked to this provider under its present address: remove it first")
        provider_id: UUID = before.id if before else await tx.value("SELECT uuid7()")
        sealed = self._seal.seal(provider_id, secret) if secret else None
        team_id = await _default_team(tx, actor, wanted)
        values = (wanted.domains, wanted.create_users, wanted.shares_users, team_id, wanted.default_role)
        try:
            row = await tx.one(
                SQL["set_provider"],
                *(provider_id, wanted.slug, wanted.name, wanted.kind, dict(config), sealed),
                *(*values, wanted.enabled, actor.label),
            )
        except Violation as error:
            raise Malformed("this is no name for a provider: lower-case letters, digits and dashes") from error
        if row is None:
            raise Conflict(f"'{wanted.slug}' was made by somebody else just now")
        told = {
            "kind": wanted.kind,
            "config": {name: value for name, value in config.items() if name in {*_WHERE, "metadataUrl"}},
            "domains": list(wanted.domains),
            "createUsers": wanted.create_users,
            "sharesUsers": wanted.shares_users,
            "defaultTeam": wanted.default_team,
            "defaultRole": wanted.default_role,
            "enabled": wanted.enabled,
            "secretChanged": wanted.secret is not None,
        }
        await audit.record(tx, actor.label, "identity_provider.set", f"identity_provider:{wanted.slug}", told)
        return bool(row["made"])


async def _only_administrators(tx: Tx) -> None:
    if not await tx.value(SQL["administers_instance"]):
        raise Forbidden("identity providers are managed by the owners of the instance's first team, acting in it")


async def _default_team(tx: Tx, actor: Actor, wanted: Wanted) -> UUID | None:
    if wanted.default_team is None:
        return None
    team_id: UUID | None = await tx.value(SQL["own_team"], wanted.default_team, actor.id)
    if team_id is None:
        raise NotFound("there is no such team")
    return team_id


def _check(wanted: Wanted) -> None:
    """Raises Malformed."""
    wrong: list[FieldError] = []
    if not all(is_domain(domain) for domain in wanted.domains):
        wrong.append(FieldError(path="domains", message="must be names of domains, as in acme.example"))
    if wanted.kind is ProviderKind.SAML and not wanted.domains:
        # nothing in SAML says that an address was verified: a company's provider is believed about its own domains
        wrong.append(FieldError(path="domains", message="are needed: the provider may speak for these alone"))
    elif wanted.create_users and not wanted.domains:
        wrong.append(FieldError(path="domains", message="are needed with createUsers: else everybody could come in"))
    if wanted.default_team is None and wanted.default_role != "member":
        wrong.append(FieldError(path="defaultTeam", message="is needed with a defaultRole"))
    if wrong:
        raise Malformed("; ".join(f"{one.path}: {one.message}" for one in wrong), errors=tuple(wrong))


def _differs(before: Mapping[str, Any], now: Mapping[str, Any], names: tuple[str, ...]) -> bool:
    return any(name in now and before.get(name) != now[name] for name in names)


def _provider(row: Row) -> Provider:
    values = dict(row)
    values["kind"] = ProviderKind(values["kind"])
    values["domains"] = tuple(values["domains"])
    return Provider(**values)
