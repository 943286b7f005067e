# pyright: basic
"""The database: transactions that know their team. The only file that touches asyncpg.

Row-level security decides what a transaction sees; the settings it reads are local to the transaction,
so a pooled connection can never carry a team over to the next one. asyncpg has no type information: hence
`basic` above, for this file alone.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Self, cast
from uuid import UUID

import asyncpg
import msgspec

from sfp_server.actor import Actor
from sfp_server.errors import Unavailable

Row = Mapping[str, Any]

#: what asyncpg raises when the server is away, restarting, or out of connections
_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    # A server that is killed says so on idle connections before it closes them: whoever uses one in between gets this.
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    # before the migration has made the database and the roles' passwords
    asyncpg.InvalidCatalogNameError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.QueryCanceledError,
    asyncpg.DiskFullError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
    asyncpg.IdleInTransactionSessionTimeoutError,
)


#: seconds between two questions on a connection that only listens, and until they must be answered
_PROBE_SECONDS = 20.0
_PROBE_PATIENCE = 10.0


class Violation(Exception):
    """A named constraint refused a change; `constraint` is its name."""

    def __init__(self, constraint: str) -> None:
        super().__init__(constraint)
        self.constraint = constraint


class Tx:
    """An open transaction. Its methods raise `Violation` for constraints and `Unavailable` when the server is away."""

    def __init__(self, connection: Any, *, team_id: UUID | None = None, audit_key: bytes | None = None) -> None:
        self._connection = connection
        #: the team that row-level security sees
        self.team_id = team_id
        #: with which this process vouches for audit entries; None: it has none
        self.audit_key = audit_key

    async def one(self, statement: str, *values: Any) -> Row | None:
        """The first row, or None."""
        with _translated():
            return await self._connection.fetchrow(statement, *values)

    async def all(self, statement: str, *values: Any) -> Sequence[Row]:
        """All rows."""
        with _translated():
            return await self._connection.fetch(statement, *values)

    async def many(self, statement: str, values: Sequence[Sequence[Any]]) -> Sequence[Row]:
        """The rows of a statement that is run with each of `values`, in a stream instead of one by one."""
        with _translated():
            return await self._connection.fetchmany(statement, values)

    async def value(self, statement: str, *values: Any) -> Any:
        """The first column of the first row, or None."""
        with _translated():
            return await self._connection.fetchval(statement, *values)

    async def execute(self, statement: str, *values: Any) -> int:
        """Run it and answer how many rows it touched."""
        with _translated():
            status: str = await self._connection.execute(statement, *values)
        count = status.rpartition(" ")[2]
        return int(count) if count.isdigit() else 0

    async def serve(self, team_id: UUID) -> None:
        """From here on the transaction acts inside `team_id`: for the dispatcher and the broker, which serve all."""
        await self.execute("SELECT set_config('sfp.team_id', $1, true)", str(team_id))
        self.team_id = team_id

    async def leave(self) -> None:
        """Undo `serve`: from here on the transaction is in no team."""
        await self.execute("SELECT set_config('sfp.team_id', '', true)")
        self.team_id = None

    async def identify(self, user_id: UUID) -> None:
        """From here on the transaction acts for this user, whom it has recognised meanwhile."""
        await self.execute("SELECT set_config('sfp.user_id', $1, true)", str(user_id))


class Database:
    """A pool of connections of one database role."""

    def __init__(
        self,
        url: str,
        *,
        application: str,
        size: int = 10,
        least: int = 1,
        schema: str = "sfp",
        access: Mapping[str, Any] | None = None,
        audit_key: bytes | None = None,
    ) -> None:
        """`access`: what a connection needs beside the URL (`password`, `ssl`); `audit_key`: as `Tx.audit_key`."""
        self._audit_key = audit_key
        self._url = url
        self._schema = schema
        self._access = dict(access or {})
        self._application = application
        self._size = size
        self._least = least
        self._pool: Any = None
        self._opening = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection. Closing twice is fine."""
        pool, self._pool = self._pool, None
        if pool is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(pool.close(), 3)
            pool.terminate()

    @asynccontextmanager
    async def transaction(self, actor: Actor) -> AsyncGenerator[Tx]:
        """Open a transaction in which row-level security sees `actor`'s team.

        Commits when the block ends, rolls back when it raises. Raises Unavailable.
        """
        user_id = actor.id if actor.is_user else None
        async with self._begin(team_id=actor.team_id, user_id=user_id) as tx:
            yield tx

    @asynccontextmanager
    async def identifying(
        self, *, user_id: UUID | None = None, presented_hash: bytes | None = None
    ) -> AsyncGenerator[Tx]:
        """Open a transaction before there is an actor: it sees one user's memberships, or the row of one token hash."""
        async with self._begin(user_id=user_id, presented_hash=presented_hash) as tx:
            yield tx

    @asynccontextmanager
    async def serving(self, team_id: UUID | None = None) -> AsyncGenerator[Tx]:
        """Open a transaction of a service (dispatcher, broker, deliverer), inside a team when one is given."""
        async with self._begin(team_id=team_id) as tx:
            yield tx

    @asynccontextmanager
    async def separately(self) -> AsyncGenerator[Tx]:
        """Each statement is a transaction of its own, of a service and in no team: one round trip instead of three.

        For the services' steps that are one statement anyway. Raises Unavailable.
        """
        connection = await self._acquire()
        try:
            yield Tx(connection)
        finally:
            await self._release(connection)

    @asynccontextmanager
    async def _begin(
        self, *, team_id: UUID | None = None, user_id: UUID | None = None, presented_hash: bytes | None = None
    ) -> AsyncGenerator[Tx]:
        settings = {
            "sfp.team_id": str(team_id or ""),
            "sfp.user_id": str(user_id or ""),
            "sfp.presented_hash": (presented_hash or b"").hex(),
        }
        # One round trip for BEGIN and all settings. Formatting is safe: only UUIDs and hex digits get here.
        begin = "BEGIN; " + " ".join(f"SET LOCAL {name} = '{value}';" for name, value in settings.items())
        connection = await self._acquire()
        try:
            try:
                with _translated():
                    await connection.execute(begin)
                yield Tx(connection, team_id=team_id, audit_key=self._audit_key)
                with _translated():
                    await connection.execute("COMMIT")
            except BaseException:
                await _roll_back(connection)
                raise
        finally:
            await self._release(connection)

    async def _acquire(self) -> Any:
        with _translated():
            if self._pool is None:
                await self._open()
            return await cast("asyncpg.Pool", self._pool).acquire(timeout=5)

    async def _release(self, connection: Any) -> None:
        if self._pool is not None:
            with suppress(*_AWAY):
                await self._pool.release(connection, timeout=2)  # which asyncpg shields from cancellation

    async def _open(self) -> None:
        async with self._opening:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    self._url,
                    min_size=self._least,
                    max_size=self._size,
                    timeout=5,
                    command_timeout=30,
                    init=_prepare,
                    connection_class=_Connection,
                    server_settings=self._server_settings(),
                    **self._access,
                )

    def _server_settings(self) -> dict[str, str]:
        return {
            "application_name": self._application,
            "search_path": self._schema,
            "idle_in_transaction_session_timeout": "60000",
        }

    async def listen(self, channel: str, heard: Callable[[str], None], *, connected: Callable[[], None]) -> None:
        """Call `heard(payload)` for each NOTIFY on `channel` until cancelled, or until the connection ends.

        `connected` is called once listening has begun: whatever happened before must be read from tables.
        Raises Unavailable when the connection cannot be made or is lost.
        """
        with _translated():
            connection = await asyncpg.connect(
                self._url, timeout=5, server_settings=self._server_settings(), **self._access
            )
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        try:
            with _translated():
                await connection.add_listener(channel, lambda *told: heard(str(told[3])))
            connected()
            with _translated():
                await _until_lost(connection, lost)
            raise Unavailable("the database connection was lost", retry_after=2)
        finally:
            connection.terminate()


class _Connection(asyncpg.Connection):
    """Every setting is local to its transaction, so there is nothing to reset: one round trip less per use."""

    def get_reset_query(self) -> str:
        return ""


async def _until_lost(connection: Any, lost: asyncio.Event) -> None:
    """Until the server has hung up; a network that was cut says nothing, so we ask. Raises when there is no answer."""
    while not lost.is_set():
        try:
            await asyncio.wait_for(lost.wait(), _PROBE_SECONDS)
        except TimeoutError:
            await connection.execute("SELECT", timeout=_PROBE_PATIENCE)


async def _prepare(connection: Any) -> None:
    for name in ("json", "jsonb"):
        await connection.set_type_codec(
            name,
            schema="pg_catalog",
            encoder=lambda value: msgspec.json.encode(value).decode(),
            decoder=msgspec.json.decode,
        )


async def _roll_back(connection: Any) -> None:
    """Undo; a connection whose transaction cannot be undone is not used again. Never raises: the first error counts."""
    try:
        if connection.is_closed():
            return
    except asyncpg.InterfaceError:  # the pool has taken it back already: the server hung up
        return
    undoing = asyncio.ensure_future(connection.execute("ROLLBACK"))
    # When we are cancelled again meanwhile, nobody else asks how it ended.
    undoing.add_done_callback(lambda done: done.cancelled() or done.exception())
    try:
        await asyncio.wait_for(asyncio.shield(undoing), 5)
    except (Exception, asyncio.CancelledError):
        with suppress(asyncpg.InterfaceError):
            connection.terminate()


class _translated:  # noqa: N801 (reads as a statement: `with _translated():`)
    """Database errors become ours at this one seam."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, asyncpg.IntegrityConstraintViolationError):
            raise Violation(str(getattr(error, "constraint_name", None) or "")) from error
        if isinstance(error, _AWAY) and not isinstance(error, Unavailable):
            raise Unavailable("the database is away; try again shortly", retry_after=2) from error


async def run_script(url: str, script: str) -> None:
    """Run statements outside of any pool, as migrations and tests need. Raises Unavailable."""
    with _translated():
        connection = await asyncpg.connect(url, timeout=10)
    try:
        await connection.execute(script)
    finally:
        await connection.close(timeout=5)


async def fetch(url: str, statement: str, *values: Any) -> Sequence[Row]:
    """Rows of one statement on a connection of its own, as migrations and tests need. Raises Unavailable."""
    with _translated():
        connection = await asyncpg.connect(url, timeout=10)
    try:
        with _translated():
            return await connection.fetch(statement, *values)
    finally:
        await connection.close(timeout=5)
