"""A CI system's own token for one of ours: no secret is stored in CI.

Owners make rules: an issuer, an audience, what claims must be, and which scopes that gives for how long. A token is
checked with the keys of an issuer that a rule names, and of no other: nobody makes us call a stranger. Among the rules
of a team the oldest that fits counts. A token that fits rules of several teams must come with the team's name.

A token may be exchanged again while it lives, because a long job of GitLab has only one; a rule with `singleUse` takes
it once.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sfp_server.actor import Actor
from sfp_server.audit import service as audit
from sfp_server.db.database import Database, Row, Tx, Violation
from sfp_server.db.queries import load
from sfp_server.errors import Conflict, NotFound, TokenExpired, TokenInvalid, TooManyRequests, Unprocessable
from sfp_server.identity import application_tokens, compact
from sfp_server.identity.application_tokens import NewToken, Order
from sfp_server.identity.attempts import Kind, guess, refuse
from sfp_server.identity.issuers import Issuers
from sfp_server.identity.tokens import hash_of

SQL = load(__package__ or "", "ci.sql")

#: what CI systems sign with
_ALGORITHMS = ("RS256", "PS256", "ES256")
#: seconds that clocks may differ; from `iat` to `exp` at most
_LEEWAY, _LONGEST = 30, 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRule:
    """A rule as an owner words it. `claims`: name → what it must be, `*` for anything but nothing."""

    name: str
    issuer: str
    audience: str
    claims: Mapping[str, str]
    scopes: list[str]
    ttl_seconds: int
    single_use: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchanged:
    """What a CI system gets."""

    token: str
    expires_at: datetime
    expires_in: int
    scopes: list[str]
    team: str
    rule: str


async def add_rule(tx: Tx, actor: Actor, rule: NewRule) -> Row:
    """Raises Conflict: the team has a rule of this name."""
    values = (rule.name, rule.issuer, rule.audience, dict(rule.claims), rule.scopes, rule.ttl_seconds, rule.single_use)
    try:
        row = await tx.one(SQL["add_rule"], *values, actor.name, hash_of(rule.issuer))
    except Violation as error:
        raise Conflict("there is a trust rule of this name") from error
    assert row is not None  # INSERT … RETURNING
    detail = {"name": rule.name, "issuer": rule.issuer, "claims": dict(rule.claims), "scopes": rule.scopes}
    await audit.record(tx, actor.label, "oidc_trust.created", f"oidc_trust:{row['id']}", detail)
    return row


async def drop_rule(tx: Tx, actor: Actor, rule_id: UUID) -> None:
    """Remove a rule, and with it the tokens that it gave. Raises NotFound."""
    row = await tx.one(SQL["drop_rule"], rule_id)
    if row is None:
        raise NotFound("there is no such trust rule")
    await tx.execute(SQL["revoke_tokens_of_rule"], _maker(row["name"]))
    await audit.record(tx, actor.label, "oidc_trust.deleted", f"oidc_trust:{rule_id}", {"name": row["name"]})


class Exchange:
    """The exchange itself. One per process."""

    def __init__(self, db: Database, issuers: Issuers) -> None:
        self._db = db
        self._issuers = issuers

    async def exchange(self, token: str, *, team: str | None, address: str) -> Exchanged:
        """An application token for a CI system's token.

        Raises TokenInvalid (not said why: no rule fits, or the token is not good), TokenExpired,
        Unprocessable (it fits rules of several teams), TooManyRequests, Unavailable.
        """
        try:
            issuer = _issuer(token)
            rules = await self._rules(issuer)
            claims = await self._issuers.verify(token, issuer=issuer, algorithms=_ALGORITHMS)
            ends = _alive_until(claims, int(time.time()))
            rule = await self._chosen([row for row in rules if fits(row, claims)], team)
        except (TokenInvalid, TokenExpired) as error:
            raise await self._refused(address) or error from error
        return await self._given(rule, claims, token, ends, address)

    async def _rules(self, issuer: str) -> Sequence[Row]:
        """Those that name the issuer. Raises TokenInvalid: there is none, so nobody is asked for its keys."""
        async with self._db.identifying(presented_hash=hash_of(issuer)) as tx:
            found = [row for row in await tx.all(SQL["rules_of_issuer"]) if row["issuer"] == issuer]
        if not found:
            raise compact.invalid()
        return found

    async def _chosen(self, fitting: Sequence[Row], team: str | None) -> Row:
        """The oldest rule of the one team. Raises TokenInvalid, Unprocessable."""
        if team is not None:
            slugs = {team_id: await self._slug(team_id) for team_id in {row["team_id"] for row in fitting}}
            fitting = [row for row in fitting if slugs[row["team_id"]] == team]
        if not fitting:
            raise compact.invalid()
        if len({row["team_id"] for row in fitting}) > 1:
            raise Unprocessable("this token is good for several teams: say which, in `team`")
        return fitting[0]

    async def _slug(self, team_id: UUID) -> str:
        async with self._db.serving(team_id) as tx:
            return await tx.value(SQL["slug_of_team"])

    async def _refused(self, address: str) -> TooManyRequests | None:
        async with self._db.identifying() as tx:
            return await refuse(tx, guess(Kind.CI_TOKEN, address=address))

    async def _given(self, rule: Row, claims: Mapping[str, Any], token: str, ends: int, address: str) -> Exchanged:
        """Make the token. Raises TokenInvalid: the rule takes each once, and took this one."""
        order = Order(name=f"CI: {rule['name']}"[:200], scopes=rule["scopes"], life=rule["ttl_seconds"], from_ci=True)
        signed = token.rpartition(".")[0]  # of one text there may be several valid signatures
        async with self._db.serving(rule["team_id"]) as tx:
            if (
                rule["single_use"]
                and await tx.one(SQL["use_once"], rule["id"], hash_of(signed), ends + _LEEWAY) is None
            ):
                raise compact.invalid()
            await tx.execute(application_tokens.SQL["sweep_tokens"])
            made = await application_tokens.issue(tx, order, made_by=None, made_by_name=_maker(rule["name"]))
            await self._write_down(tx, rule, claims, made, address)
            team = await tx.value(SQL["slug_of_team"])
        return Exchanged(
            token=made.token,
            expires_at=made.expires_at,
            expires_in=rule["ttl_seconds"],
            scopes=made.scopes,
            team=team,
            rule=rule["name"],
        )

    async def _write_down(self, tx: Tx, rule: Row, claims: Mapping[str, Any], made: NewToken, address: str) -> None:
        told = {name: str(claims[name])[:500] for name in ("sub", "jti", *rule["claims"]) if name in claims}
        detail = {"rule": rule["name"], "issuer": rule["issuer"], "claims": told, "scopes": made.scopes}
        subject = f"application_token:{made.id}"
        await audit.record(
            tx, f"oidc_trust:{rule['id']}", "application_token.exchanged", subject, {**detail, "address": address}
        )


def fits(rule: Mapping[str, Any], claims: Mapping[str, Any]) -> bool:
    """Whether a checked token's audience and claims are as the rule says; a claim that is missing is not."""
    audiences: object = claims.get("aud")
    is_for_us = rule["audience"] == audiences or (isinstance(audiences, list) and rule["audience"] in audiences)
    return is_for_us and all(_is_like(claims.get(name), wanted) for name, wanted in rule["claims"].items())


def _is_like(value: object, wanted: str) -> bool:
    """The whole text, `*` standing for one or more of any characters; numbers and booleans as JSON writes them."""
    if isinstance(value, bool):
        value = "true" if value else "false"
    if isinstance(value, int):
        value = str(value)
    if not isinstance(value, str):
        return False
    first, *rest = wanted.split("*")
    if not rest:
        return value == wanted
    at = len(first)
    for part in rest[:-1]:  # the leftmost place leaves most to the others, so none has to be tried twice
        found = value.find(part, at + 1)
        if found < 0:
            return False
        at = found + len(part)
    return value.startswith(first) and value.endswith(rest[-1]) and len(value) - len(rest[-1]) > at


def _issuer(token: str) -> str:
    """Whose token it says it is. Raises TokenInvalid."""
    issuer: object = compact.read(token).claims.get("iss")
    if not isinstance(issuer, str):
        raise compact.invalid()
    return issuer


def _alive_until(claims: Mapping[str, Any], now: int) -> int:
    """Unix time of its end. Raises TokenInvalid for impossible times, TokenExpired."""
    made, starts, ends = claims.get("iat"), claims.get("nbf", claims.get("iat")), claims.get("exp")
    if type(made) is not int or type(starts) is not int or type(ends) is not int:
        raise compact.invalid()
    if max(made, starts) > now + _LEEWAY or not 0 < ends - made <= _LONGEST:
        raise compact.invalid()
    if now >= ends:
        raise TokenExpired("the CI system's token has expired")
    return ends


def _maker(rule: str) -> str:
    """Who made a token, where it was a rule."""
    return f"rule {rule}"
