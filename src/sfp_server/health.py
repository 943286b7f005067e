"""Is the instance well? For load balancers (public), and in detail for those who may know."""

import asyncio
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from litestar import Response, get
from litestar.di import NamedDependency
from valkey.asyncio import Valkey
from valkey.exceptions import ValkeyError

from sfp_server.actor import Actor
from sfp_server.db.database import Database
from sfp_server.errors import Unavailable
from sfp_server.settings import Settings
from sfp_server.version import API_VERSION, VERSION
from sfp_server.web.guard import PUBLIC
from sfp_server.web.wire import Wire

State = Literal["healthy", "degraded", "unhealthy"]

#: seconds an answer is used again: asking often costs the database nothing
_FRESH = 1.0
#: seconds
_PATIENCE = 2.0

_ALIVE = "SELECT count(*) FROM dispatchers WHERE seen_at > now() - interval '10 seconds'"
_DATABASE = """
SELECT (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()) AS active,
       current_setting('max_connections')::int AS most,
       current_setting('server_version') AS version
"""
_QUEUES = """
SELECT q.name, q.slots, q.paused,
       (SELECT count(*) FROM tasks t WHERE t.priority = q.name AND t.status = 'pending') AS pending,
       (SELECT count(*) FROM tasks t WHERE t.priority = q.name AND t.status = 'active') AS active,
       (SELECT count(*) FROM tasks t WHERE t.priority = q.name AND t.status = 'failed'
           AND t.finished_at > now() - interval '1 day') AS failed
  FROM queues q
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """What was found; times in seconds, None: not reached."""

    database_time: float | None
    cache_time: float | None
    cache_memory: int
    dispatchers: int

    @property
    def state(self) -> State:
        if self.database_time is None:
            return "unhealthy"
        return "healthy" if self.cache_time is not None and self.dispatchers else "degraded"


class Health:
    """Looks after the parts that this process needs, at most once a second."""

    def __init__(self, db: Database, cache: Valkey) -> None:
        self._db = db
        self._cache = cache
        self._looking = asyncio.Lock()
        self._last: Vitals | None = None
        self._until = 0.0

    async def look(self) -> Vitals:
        """What is known, not older than a second. Never raises."""
        async with self._looking:
            if self._last is None or time.monotonic() >= self._until:
                (database_time, dispatchers), (cache_time, memory) = await asyncio.gather(
                    self._database(), self._valkey()
                )
                self._last = Vitals(
                    database_time=database_time, cache_time=cache_time, cache_memory=memory, dispatchers=dispatchers
                )
                self._until = time.monotonic() + _FRESH
            return self._last

    async def _database(self) -> tuple[float | None, int]:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(_PATIENCE), self._db.identifying() as tx:
                dispatchers = await tx.value(_ALIVE)
        except (Unavailable, TimeoutError):
            return None, 0
        return time.perf_counter() - started, int(dispatchers)

    async def _valkey(self) -> tuple[float | None, int]:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(_PATIENCE):
                info: Mapping[str, Any] = await self._cache.info("memory")  # pyright: ignore[reportUnknownMemberType] (untyped library)
        except (ValkeyError, OSError, TimeoutError):
            return None, 0
        return time.perf_counter() - started, int(info["used_memory"])


class Well(Wire):
    status: State
    version: str


@get("/health", opt={"scope": PUBLIC})
async def public_health(health: NamedDependency[Health]) -> Response[Well]:
    """For load balancers: 503 when nothing can be done without waiting."""
    state = (await health.look()).state
    if state == "unhealthy":
        return Response(Well(status=state, version=VERSION), status_code=503, headers={"Retry-After": "2"})
    return Response(Well(status=state, version=VERSION))


class Greeting(Wire):
    name: str
    version: str
    api_version: str


@get("/sfp/api", opt={"scope": PUBLIC})
async def greeting() -> Greeting:
    """What answers here."""
    return Greeting(name="sfp server", version=VERSION, api_version=API_VERSION)


class Pong(Wire):
    status: str


@get("/sfp/api/ping", opt={"scope": PUBLIC})
async def ping() -> Pong:
    """Whether this process answers; asks nobody else."""
    return Pong(status="ok")


class ApiHealth(Wire):
    status: str
    #: milliseconds from the request to this answer
    response_time: float


class Connections(Wire):
    active: int
    max: int


class DatabaseHealth(Wire):
    status: str
    connections: Connections
    #: milliseconds
    response_time: float | None


class CacheHealth(Wire):
    status: str
    #: bytes that the cache uses
    memory: int


class QueueHealth(Wire):
    status: str
    slots: int
    #: tasks of the caller's team; `failed`: in the last 24 hours
    pending: int
    active: int
    failed: int


class WorkersHealth(Wire):
    status: str
    dispatchers: int
    slots: int


class Components(Wire):
    api: ApiHealth
    database: DatabaseHealth
    cache: CacheHealth
    queues: dict[str, QueueHealth]
    workers: WorkersHealth


class Usage(Wire):
    used: int
    total: int


class Resources(Wire):
    #: load of one minute, and processors
    cpu: dict[str, float]
    #: bytes
    memory: Usage
    disk: Usage


class Versions(Wire):
    server: str
    api: str
    database: str


class Detail(Wire):
    status: State
    timestamp: datetime
    components: Components
    resources: Resources
    version: Versions


@get("/sfp/api/health", opt={"scope": "health:read"})
async def detailed_health(
    health: NamedDependency[Health],
    actor: NamedDependency[Actor],
    db: NamedDependency[Database],
    settings: NamedDependency[Settings],
) -> Detail:
    """Each part, as the caller's team sees it."""
    started = time.perf_counter()
    vitals = await health.look()
    async with db.transaction(actor) as tx:
        queues = await tx.all(_QUEUES)
        server = await tx.one(_DATABASE)
    assert server is not None  # a SELECT without FROM
    shown = {
        row["name"]: QueueHealth(
            status=_queue_state(vitals, paused=row["paused"] or not row["slots"]),
            slots=row["slots"],
            pending=row["pending"],
            active=row["active"],
            failed=row["failed"],
        )
        for row in queues
    }
    spent = (time.perf_counter() - started) * 1000
    return Detail(
        status=vitals.state,
        timestamp=datetime.now(UTC),
        components=Components(
            api=ApiHealth(status="healthy", response_time=round(spent, 2)),
            database=DatabaseHealth(
                status="healthy",
                connections=Connections(active=server["active"], max=server["most"]),
                response_time=round(vitals.database_time * 1000, 2) if vitals.database_time is not None else None,
            ),
            cache=CacheHealth(
                status="healthy" if vitals.cache_time is not None else "unhealthy", memory=vitals.cache_memory
            ),
            queues=shown,
            workers=WorkersHealth(
                status="healthy" if vitals.dispatchers else "unhealthy",
                dispatchers=vitals.dispatchers,
                slots=sum(queue.slots for queue in shown.values()),
            ),
        ),
        resources=_resources(settings.directory),
        version=Versions(server=VERSION, api=API_VERSION, database=server["version"]),
    )


def _queue_state(vitals: Vitals, *, paused: bool) -> str:
    if paused:
        return "paused"
    return "healthy" if vitals.dispatchers else "unhealthy"


def _resources(directory: Path) -> Resources:
    memory = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = (int(memory[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    disk = shutil.disk_usage(directory)
    return Resources(
        cpu={"load": os.getloadavg()[0], "processors": float(os.cpu_count() or 1)},
        memory=Usage(used=total - free, total=total),
        disk=Usage(used=disk.used, total=disk.total),
    )


ROUTES = [public_health, greeting, ping, detailed_health]
