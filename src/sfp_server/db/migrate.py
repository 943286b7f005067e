"""Bring a database to the schema of this release: forward only, one transaction a file, one migrator at a time.

What has been applied is kept where the Supabase CLI keeps it (`supabase_migrations.schema_migrations`), so
that either can apply the same files. Roles get their passwords here, because migrations are public text.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from urllib.parse import urlsplit, urlunsplit

from sfp_server.db.database import fetch, run_script

SERVICE_ROLES = ("sfp_api", "sfp_dispatcher", "sfp_broker", "sfp_deliverer", "sfp_courier", "sfp_auditor")

#: any number; the same for every migrator
_LOCK = 7_302_023

_HISTORY = """
CREATE SCHEMA IF NOT EXISTS supabase_migrations;
CREATE TABLE IF NOT EXISTS supabase_migrations.schema_migrations (
  version text PRIMARY KEY, statements text[], name text
);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One file: `<version>_<name>.sql`; versions are timestamps, so their order is the order of the text."""

    version: str
    name: str
    script: str


def migrations() -> list[Migration]:
    """All migrations of this release, in order."""
    found = [entry for entry in files("sfp_server.db.migrations").iterdir() if entry.name.endswith(".sql")]
    return [
        Migration(version=version, name=name.removesuffix(".sql"), script=entry.read_text())
        for entry in sorted(found, key=lambda entry: entry.name)
        for version, _, name in [entry.name.partition("_")]
    ]


async def applied(url: str) -> set[str]:
    """Versions that the database has. Raises Unavailable."""
    present = await fetch(url, "SELECT to_regclass('supabase_migrations.schema_migrations') IS NOT NULL AS present")
    if not present[0]["present"]:
        return set()
    return {row["version"] for row in await fetch(url, "SELECT version FROM supabase_migrations.schema_migrations")}


async def ensure_database(url: str) -> None:
    """Make the database named in `url` when the server does not have it. Raises Unavailable."""
    parts = urlsplit(url)
    name = parts.path.lstrip("/") or "postgres"
    server = urlunsplit(parts._replace(path="/postgres"))
    if not await fetch(server, "SELECT 1 FROM pg_database WHERE datname = $1", name):
        quoted = name.replace('"', '""')
        await run_script(server, f"CREATE DATABASE \"{quoted}\" ENCODING 'UTF8' TEMPLATE template0")


async def migrate(url: str, passwords: Mapping[str, str]) -> list[str]:
    """Apply what is missing and set the service roles' passwords.

    Args:
        url: connection of a role that may create roles and schemas.
        passwords: per service role; a role that is not named keeps the one it has.

    Returns:
        Names of the migrations that were applied now.

    Raises Unavailable.
    """
    await run_script(url, _HISTORY)
    done: list[str] = []
    have = await applied(url)
    for migration in migrations():
        if migration.version not in have:
            await run_script(url, _in_one_transaction(migration))
            done.append(f"{migration.version}_{migration.name}")
    for role, password in passwords.items():
        await run_script(url, f"ALTER ROLE {role} LOGIN PASSWORD {_literal(password)}")
        await run_script(url, f"ALTER ROLE {role} SET search_path = sfp")
    return done


def _in_one_transaction(migration: Migration) -> str:
    """The file and its entry in the history; the lock makes a second migrator wait, and then fail on the entry."""
    return (
        f"BEGIN; SELECT pg_advisory_xact_lock({_LOCK});\n"
        "INSERT INTO supabase_migrations.schema_migrations (version, name)"
        f" VALUES ({_literal(migration.version)}, {_literal(migration.name)});\n"
        f"{migration.script}\nCOMMIT;"
    )


def _literal(text: str) -> str:
    """A string literal: DDL takes no parameters. The text is a version, a name or a generated password."""
    if "\\" in text or "\0" in text:
        raise ValueError("a backslash or NUL in a literal")
    return "'" + text.replace("'", "''") + "'"
