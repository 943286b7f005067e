"""Procrastinate on the PostgreSQL of the measured instance, in a database of its own: as durable as ours.

Its worker awakes by NOTIFY and starts `true` as a subprocess for each job. It keeps no results: we look at the job's
status over an open connection every 2 ms, which is nearer than its own ways. It isolates nothing.
"""

import asyncio
import os
import time
from pathlib import Path

import psycopg
from peer import PATIENCE, Processes, program
from psycopg import sql

#: seconds between two looks at a job's status
LOOK = 0.002
DATABASE = "bench_procrastinate"


class ProcrastinatePeer(Processes):
    """One worker that runs `workers` jobs at once; `server` is the URL of a superuser's database on the server."""

    def __init__(self, base: Path, workers: int, server: str) -> None:
        super().__init__(base)
        self._count = workers
        self._server = server
        head, _, options = server.partition("?")
        self._url = f"{head.rpartition('/')[0]}/{DATABASE}?{options}"
        self._database: psycopg.Connection | None = None

    def open(self) -> None:
        with psycopg.connect(self._server, autocommit=True) as server:
            server.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(DATABASE)))
            server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
        os.environ["SFP_BENCH_DATABASE"] = self._url
        from procrastinate import App, PsycopgConnector

        async def prepare() -> None:
            async with App(connector=PsycopgConnector(conninfo=self._url)).open_async() as app:
                await app.schema_manager.apply_schema_async()

        asyncio.run(prepare())
        self._database = psycopg.connect(self._url, autocommit=True)
        self.spawn(
            [program("procrastinate"), "--app=procrastinate_jobs.app", "worker", f"--concurrency={self._count}"],
            "worker",
            SFP_BENCH_DATABASE=self._url,
        )
        self.run()

    def close(self) -> None:
        super().close()
        if self._database is not None:
            self._database.close()

    def run(self) -> float:
        began = time.perf_counter()
        self._wait(self._defer(1))
        return time.perf_counter() - began

    def throughput(self, count: int) -> float:
        began = time.perf_counter()
        for last in [self._defer(1) for _ in range(count)]:
            self._wait(last)
        return count / (time.perf_counter() - began)

    def _defer(self, count: int) -> int:
        """What its own `defer` does, on an open connection."""
        assert self._database is not None
        row = self._database.execute(
            "SELECT procrastinate_defer_jobs_v1(array_agg(ROW('default', 'procrastinate_jobs.trivial', 0, NULL, NULL,"
            " '{}', NULL)::procrastinate_job_to_defer_v1)) FROM generate_series(1, %s)",
            [count],
        ).fetchone()
        assert row is not None
        return row[0][0]

    def _wait(self, job: int) -> None:
        assert self._database is not None
        deadline = time.monotonic() + PATIENCE * 2
        while True:
            row = self._database.execute("SELECT status FROM procrastinate_jobs WHERE id = %s", [job]).fetchone()
            match row:
                case ("succeeded",):
                    return
                case ("todo" | "doing",) if time.monotonic() < deadline:
                    time.sleep(LOOK)
                case _:
                    raise RuntimeError(f"a trivial Procrastinate job did not end well: {row}")
