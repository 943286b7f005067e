"""The database of a throw-away instance, running alone: made, configured and started as `sfp-server` does it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import asyncpg

from instance import TENANT, Instance
from sfp_server.instance import postgres
from sfp_server.instance.place import Place
from sfp_server.instance.services import services
from sfp_server.settings import Settings

#: what a `command ["true"]` is in the table; $1 team, $2 how many, $3 queue
WAITING = """
INSERT INTO tasks (team_id, type, data, priority, schedule_type, timeout_seconds, lease_seconds, network, created_by,
                   created_by_name)
SELECT $1, 'command', '{"argv": ["true"]}', $3, 'immediate', 3600, 60, 'none', 'application:bench', 'bench'
  FROM generate_series(1, $2::int)
"""


@contextmanager
def database(base: Path) -> Iterator[Settings]:
    """A migrated database below `base`, as durable as every instance's; ends with the block."""
    instance = Instance(base)
    settings = Settings.load(instance.directory, {})
    server = next(
        service
        for service in services(Place(directory=instance.directory, tenant=TENANT), settings, {})
        if service.name == "postgres"
    )
    with postgres.running_alone(Place(directory=instance.directory, tenant=TENANT), server):
        yield settings


async def superuser(settings: Settings) -> asyncpg.Connection:
    """To fill tables and to look; never measured."""
    return await asyncpg.connect(settings.role_url("postgres"), server_settings={"search_path": "sfp"})


async def team(admin: asyncpg.Connection) -> UUID:
    """The one team that `init` made."""
    return await admin.fetchval("SELECT id FROM teams LIMIT 1")
