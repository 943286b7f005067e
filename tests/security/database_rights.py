"""Measures what each database role may do to each table: grants from the catalogue, rows by trying.

Two teams are seeded with a row of each table. Then each context (a database role, and what a transaction of it says
about who is there) tries each verb that its role has a grant for. What was reached is told by words: `own` and `other`
team, `none` (a row of no team), and of users `self`, `mate` (a member of the same team), `other`.

All of it happens in one transaction that is rolled back. Triggers and foreign keys are off in it: only policies speak.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid5

import asyncpg

VERBS = {"S": "SELECT", "I": "INSERT", "U": "UPDATE", "D": "DELETE"}
_SPACE = UUID("00000000-0000-0000-0000-00000000cafe")


def ident(name: str) -> UUID:
    """The same id for the same name, in every run."""
    return uuid5(_SPACE, name)


#: user → team and role; eve belongs to none, dan is disabled
PEOPLE = {
    "ann": ("acme", "owner"),
    "max": ("acme", "member"),
    "dan": ("acme", "owner"),
    "bob": ("beta", "owner"),
    "eve": None,
}


@dataclass(frozen=True, kw_only=True)
class Context:
    """A database role, and the settings of its transaction."""

    role: str
    #: whose eyes: for the words `self` and `mate`
    user: str | None = None
    settings: dict[str, str] = field(default_factory=dict)


def _sfp(team: str | None = None, user: str | None = None, token: str | None = None) -> dict[str, str]:
    return {
        "sfp.team_id": str(ident(team)) if team else "",
        "sfp.user_id": str(ident(user)) if user else "",
        "sfp.presented_hash": _hash(token).hex() if token else "",
    }


def _jwt(user: str, session: str | None = None) -> dict[str, str]:
    """As PostgREST sets it for a signed-in user."""
    claims = {"sub": str(ident(user)), "role": "authenticated", "session_id": str(ident(session or "no session"))}
    return {"request.jwt.claims": json.dumps(claims)}


def _hash(owner: str) -> bytes:
    return ident(f"hash {owner}").bytes


CONTEXTS = {
    # the API: in a team, before a team is chosen, with a machine's token, and before anybody is known
    "api": Context(role="sfp_api", user="ann", settings=_sfp("acme", "ann")),
    "api_machine": Context(role="sfp_api", user="ann", settings=_sfp("acme")),
    "api_user": Context(role="sfp_api", user="ann", settings=_sfp(user="ann")),
    "api_token": Context(role="sfp_api", settings=_sfp(token="acme")),
    "api_nobody": Context(role="sfp_api", settings=_sfp()),
    "dispatcher": Context(role="sfp_dispatcher", settings=_sfp("acme")),
    "broker": Context(role="sfp_broker", settings=_sfp("acme")),
    # sealing keys anew and giving leases back is done for all teams
    "broker_upkeep": Context(role="sfp_broker", settings={**_sfp(), "sfp.every_team": "on"}),
    "broker_ticket": Context(role="sfp_broker", settings=_sfp(token="acme")),
    "deliverer": Context(role="sfp_deliverer", settings=_sfp()),
    "courier": Context(role="sfp_courier", settings=_sfp()),
    "auditor": Context(role="sfp_auditor", settings=_sfp("acme")),
    "remote": Context(role="sfp_remote_steps", settings=_sfp("acme")),
    "migrator": Context(role="sfp_migrator", settings=_sfp()),
    # people who come through PostgREST or Supabase
    "member": Context(role="authenticated", user="max", settings=_jwt("max")),
    "owner": Context(role="authenticated", user="ann", settings=_jwt("ann")),
    "stranger": Context(role="authenticated", user="eve", settings=_jwt("eve")),
    "disabled": Context(role="authenticated", user="dan", settings=_jwt("dan")),
    "signed_out": Context(role="authenticated", user="ann", settings=_jwt("ann", "acme")),
    "no_claims": Context(role="authenticated"),
    "anon": Context(role="anon", user="ann", settings=_jwt("ann")),
    "service_role": Context(role="service_role", user="ann", settings=_jwt("ann")),
}


@dataclass(frozen=True, kw_only=True)
class Table:
    """What is declared of a table.

    `grants`: per role the verbs, `SIU`; of some columns only: `S(id name) I U(name)`.
    `rows`: per context (or several, `api api_user`) what each verb reaches, `S:own+none IU:own`; what is not named
    reaches nothing.
    `whose`: SQL whose value says to whom a row belongs (default: team_id, else user_id, else nobody).
    `row`: SQL of columns that cannot be filled in by their type.
    """

    grants: dict[str, str]
    rows: dict[str, str]
    whose: str | None = None
    row: dict[str, str] = field(default_factory=dict)


Grants = dict[str, dict[str, frozenset[str] | None]]
Rows = dict[str, dict[str, frozenset[str]]]


def declared_grants(table: Table) -> Grants:
    """Role → verb → columns, None: all."""
    return {
        role: {
            verb: frozenset(columns.split()) if columns else None
            for verbs, columns in re.findall(r"([SIUD]+)(?:\(([^)]*)\))?", text)
            for verb in verbs
        }
        for role, text in table.grants.items()
    }


def declared_rows(table: Table) -> Rows:
    """Context → verb → words; what reaches nothing is left out."""
    return {
        context: {
            verb: frozenset(words.split("+")) for verbs, words in re.findall(r"([SIUD]+):(\S+)", text) for verb in verbs
        }
        for contexts, text in table.rows.items()
        for context in contexts.split()
    }


class Measurement:
    """The seeded database, inside a transaction of a superuser that is rolled back in the end."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._sql = connection
        self._columns: dict[str, list[asyncpg.Record]] = {}
        self._copies: dict[str, list[tuple[str | None, str]]] = {}
        self._whose: dict[str, str] = {}

    async def tables(self) -> list[str]:
        """Every table of the schema but partitions, which are reached through their parent."""
        rows = await self._sql.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'sfp'::regnamespace AND relkind IN ('r', 'p', 'v', 'm')"
            " AND NOT relispartition ORDER BY 1"
        )
        return [row[0] for row in rows]

    async def grants(self, table: str) -> Grants:
        """Who was given what, apart from the owner of the table."""
        rows = await self._sql.fetch(_GRANTS, f"sfp.{table}")
        found: dict[str, dict[str, Any]] = {}
        letters = {word: letter for letter, word in VERBS.items()}
        for role, verb, column in rows:
            of_role = found.setdefault(role, {})
            letter = letters.get(verb, verb)
            if column is None:
                of_role[letter] = None
            elif of_role.get(letter, frozenset()) is not None:
                of_role[letter] = of_role.get(letter, frozenset()) | {column}
        return found

    async def seed(self, declared: dict[str, Table]) -> None:
        """Fill every table, then give every role every grant, so that only policies decide from here on."""
        await self._sql.execute("SET LOCAL session_replication_role = replica")
        for name in await self.tables():
            await self._seed_table(name, declared[name])
        roles = ", ".join(sorted({context.role for context in CONTEXTS.values()} - {"sfp_migrator"}))
        await self._sql.execute(f"GRANT USAGE ON SCHEMA sfp TO {roles}")
        await self._sql.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA sfp TO {roles}")

    async def rows(self, table: str, grants: Grants, contexts: Iterable[str] = CONTEXTS) -> Rows:
        """What each context reaches with each verb that its role was granted."""
        found: Rows = {}
        for name in contexts:
            context = CONTEXTS[name]
            verbs = "SIUD" if context.role == "sfp_migrator" else "".join(grants.get(context.role, {}))
            reached = {verb: await self._reach(table, context, verb) for verb in verbs if verb in VERBS}
            reached = {verb: words for verb, words in reached.items() if words}
            if reached:
                found[name] = reached
        return found

    async def _reach(self, table: str, context: Context, verb: str) -> frozenset[str]:
        await self._sql.execute("SAVEPOINT trying")
        try:
            await self._sql.execute(self._as(context))
            owners = await self._try(table, verb)
        except asyncpg.InsufficientPrivilegeError:
            owners = []
        finally:
            await self._sql.execute("ROLLBACK TO SAVEPOINT trying; RELEASE SAVEPOINT trying")
        return frozenset(_word(owner, context) for owner in owners)

    async def _try(self, table: str, verb: str) -> list[str | None]:
        whose = f"({self._whose[table]})::text"
        match verb:
            case "S":
                return [row[0] for row in await self._sql.fetch(f"SELECT DISTINCT {whose} FROM sfp.{table}")]
            case "U":
                column = next(c["name"] for c in self._columns[table] if not c["fixed"])
                return [
                    row[0]
                    for row in await self._sql.fetch(f"UPDATE sfp.{table} SET {column} = {column} RETURNING {whose}")
                ]
            case "D":
                return [row[0] for row in await self._sql.fetch(f"DELETE FROM sfp.{table} RETURNING {whose}")]
            case _:
                return [owner for owner, copy in self._copies[table] if await self._inserts(table, copy)]

    async def _inserts(self, table: str, copy: str) -> bool:
        """Whether the policies let this row in; a constraint that refuses it afterwards does not matter."""
        names = ", ".join(c["name"] for c in self._columns[table] if not c["generated"])
        try:
            async with self._sql.transaction():
                await self._sql.execute(
                    f"INSERT INTO sfp.{table} ({names}) OVERRIDING SYSTEM VALUE"
                    f" SELECT {names} FROM jsonb_populate_record(NULL::sfp.{table}, $1::jsonb)",
                    copy,
                )
        except asyncpg.InsufficientPrivilegeError:
            return False
        except asyncpg.IntegrityConstraintViolationError:
            return True
        return True

    def _as(self, context: Context) -> str:
        settings = "".join(f"SET LOCAL {name} = '{value}';" for name, value in context.settings.items())
        return f"{settings} SET LOCAL ROLE {context.role}"

    async def _seed_table(self, name: str, table: Table) -> None:
        columns = await self._sql.fetch(_COLUMNS, f"sfp.{name}")
        self._columns[name] = columns
        known = {column["name"] for column in columns}
        default = next((column for column in ("team_id", "user_id") if column in known), "NULL")
        self._whose[name] = table.whose or default
        nullable_team = any(column["name"] == "team_id" and not column["required"] for column in columns)
        owners: list[str | None] = ["acme", "beta", *([None] if nullable_team else [])]
        if name in {"users", "memberships"}:
            owners = [person for person in PEOPLE if name == "users" or PEOPLE[person]]
        await self._sql.execute(f"DELETE FROM sfp.{name}")
        for owner in owners:
            values = {c["name"]: _value(name, c, owner, table) for c in columns}
            given = {column: value for column, value in values.items() if value is not None}
            await self._sql.execute(
                f"INSERT INTO sfp.{name} ({', '.join(given)}) OVERRIDING SYSTEM VALUE VALUES ({', '.join(given.values())})"
            )
        rows = await self._sql.fetch(f"SELECT ({self._whose[name]})::text, to_jsonb(t) FROM sfp.{name} AS t")
        self._copies[name] = [(row[0], row[1]) for row in rows]


def _word(owner: str | None, context: Context) -> str:
    """To whom a row belongs, as this context says it."""
    if owner is None:
        return "none"
    for person, place in PEOPLE.items():
        if owner == str(ident(person)):
            if person == context.user:
                return "self"
            return "mate" if place and place[0] == "acme" else "other"
    return "own" if owner == str(ident("acme")) else "other"


def _value(table: str, column: asyncpg.Record, owner: str | None, declared: Table) -> str | None:
    """SQL for a column of a seeded row; None: leave it to its default."""
    name, kind = column["name"], column["type"]
    team = owner if owner not in PEOPLE else (PEOPLE[owner] or ("none",))[0]
    person = owner if owner in PEOPLE else {"acme": "ann", "beta": "bob"}.get(owner or "", "eve")
    if name in declared.row:
        return declared.row[name].format(owner=owner, id=ident(owner or ""), person=person, role=_role(person))
    if column["generated"]:
        return None
    known = {
        "team_id": f"'{ident(team)}'" if team else "NULL",
        "user_id": f"'{ident(person)}'",
        **dict.fromkeys(
            ("token_hash", "device_hash", "assertion_hash", "issuer_hash"), f"'\\x{_hash(owner or '').hex()}'"
        ),
    }
    if name in known:
        return known[name]
    if not column["required"] or (column["has_default"] and name != "id"):
        return None
    return _OF_TYPE[kind].format(id=ident(f"{table} {name} {owner}"), text=f"x{owner}")


def _role(person: str) -> str:
    place = PEOPLE[person]
    return place[1] if place else ""


_OF_TYPE = {
    "uuid": "'{id}'",
    "text": "'{text}'",
    "bytea": "decode(md5('{id}'), 'hex')",
    "int4": "1",
    "int8": "abs(hashtext('{id}'))",
    "int2": "1",
    "bool": "false",
    "float8": "1",
    "timestamptz": "now()",
    "jsonb": "'{{}}'",
    "_text": "'{{}}'",
    "inet": "'192.0.2.1'",
}

_COLUMNS = """
SELECT attname AS name, typname AS type, attnotnull AS required, atthasdef OR attidentity <> '' AS has_default,
       attgenerated <> '' AS generated, attidentity <> '' OR attgenerated <> '' AS fixed
  FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid
 WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""

_GRANTS = """
SELECT coalesce(pg_roles.rolname, 'PUBLIC'), privilege_type, attname
  FROM (SELECT relacl AS acl, NULL AS attname, relowner FROM pg_class WHERE oid = $1::regclass
        UNION ALL
        SELECT attacl, attname, relowner FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
         WHERE attrelid = $1::regclass AND attnum > 0 AND attacl IS NOT NULL) AS given
 CROSS JOIN LATERAL aclexplode(acl)
  LEFT JOIN pg_roles ON pg_roles.oid = grantee
 WHERE grantee <> relowner
 ORDER BY 1, 2, 3 NULLS FIRST
"""
