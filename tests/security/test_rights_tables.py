"""Every table x every database role x every verb, own and other team: what is declared, and nothing else."""

from collections.abc import AsyncIterator

import asyncpg
import pytest
from database_rights import CONTEXTS, Grants, Measurement, declared_grants, declared_rows
from rights_tables import DEFINERS, TABLES


@pytest.fixture
async def measured(admin: asyncpg.Connection) -> AsyncIterator[tuple[Measurement, dict[str, Grants]]]:
    """A seeded database, and the grants it had before everybody was given everything."""
    transaction = admin.transaction()
    await transaction.start()
    measurement = Measurement(admin)
    grants = {table: await measurement.grants(table) for table in await measurement.tables()}
    undeclared = set(grants) - set(TABLES)
    assert not undeclared, f"declare in tests/security/rights_tables.py: {sorted(undeclared)}"
    await measurement.seed(TABLES)
    yield measurement, grants
    await transaction.rollback()


async def test_every_table_is_declared_with_exactly_its_grants(admin):
    measurement = Measurement(admin)
    found = {table: await measurement.grants(table) for table in await measurement.tables()}
    assert found == {name: declared_grants(table) for name, table in TABLES.items()}


async def test_each_role_reaches_the_declared_rows_and_no_others(measured):
    measurement, grants = measured
    found = {table: await measurement.rows(table, grants[table]) for table in TABLES}
    assert found == {name: declared_rows(table) for name, table in TABLES.items()}


async def test_every_policy_counts(admin, measured):
    """Dropping any one policy is noticed. One that is not does nothing: no grant, or another one says the same."""
    measurement, grants = measured
    unnoticed = []
    for table, policy, roles in await admin.fetch(
        "SELECT tablename, policyname, roles::text[] FROM pg_policies WHERE schemaname = 'sfp' ORDER BY 1, 2"
    ):
        touched = [name for name, context in CONTEXTS.items() if context.role in roles]
        declared = {name: verbs for name, verbs in declared_rows(TABLES[table]).items() if name in touched}
        await admin.execute(f"SAVEPOINT whole; DROP POLICY {policy} ON sfp.{table}")
        if await measurement.rows(table, grants[table], touched) == declared:
            unnoticed.append((table, policy))
        await admin.execute("ROLLBACK TO SAVEPOINT whole")
    assert unnoticed == []


async def test_every_table_is_closed_by_default_to_its_owner_too(admin):
    rows = await admin.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'sfp'::regnamespace AND relkind IN ('r', 'p')"
        " AND NOT (relrowsecurity AND relforcerowsecurity)"
    )
    assert [row[0] for row in rows] == []


async def test_partitions_are_reached_through_their_parent_only(admin):
    rows = await admin.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'sfp'::regnamespace AND relispartition AND relkind = 'r'"
        " AND EXISTS (SELECT FROM aclexplode(relacl) WHERE grantee <> relowner)"
    )
    assert [row[0] for row in rows] == []


async def test_a_reference_between_teams_tables_carries_the_team(admin):
    rows = await admin.fetch(
        """
        SELECT conrelid::regclass::text AS table, conname FROM pg_constraint
         WHERE contype = 'f' AND connamespace = 'sfp'::regnamespace AND conparentid = 0
           AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = conrelid AND attname = 'team_id')
           AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = confrelid AND attname = 'team_id')
           AND NOT EXISTS (
             SELECT FROM unnest(conkey, confkey) AS pair (here, there)
               JOIN pg_attribute a ON a.attrelid = conrelid AND a.attnum = here AND a.attname = 'team_id'
               JOIN pg_attribute b ON b.attrelid = confrelid AND b.attnum = there AND b.attname = 'team_id')
        """
    )
    assert [tuple(row) for row in rows] == []


async def test_functions_with_more_rights_than_their_caller_are_declared(admin):
    rows = await admin.fetch(
        """
        SELECT replace(oid::regprocedure::text, 'sfp.', '') AS function,
               coalesce(proconfig, '{}') @> ARRAY['search_path=sfp, pg_temp'] AS is_safe,
               ARRAY(SELECT DISTINCT coalesce(rolname, 'PUBLIC') FROM aclexplode(coalesce(proacl, acldefault('f', proowner)))
                       LEFT JOIN pg_roles ON pg_roles.oid = grantee
                      WHERE grantee <> proowner ORDER BY 1) AS callers
          FROM pg_proc WHERE pronamespace = 'sfp'::regnamespace AND prosecdef
        """
    )
    assert {row["function"]: " ".join(row["callers"]) for row in rows} == DEFINERS
    assert [row["function"] for row in rows if not row["is_safe"]] == []


async def test_no_role_reaches_the_schema_that_is_not_declared(admin):
    rows = await admin.fetch(
        "SELECT DISTINCT rolname FROM pg_namespace CROSS JOIN LATERAL aclexplode(nspacl)"
        " LEFT JOIN pg_roles ON pg_roles.oid = grantee WHERE nspname = 'sfp' AND grantee <> nspowner"
    )
    services = {context.role for context in CONTEXTS.values()} - {"sfp_migrator", "anon", "service_role"}
    assert {row[0] for row in rows} == services
