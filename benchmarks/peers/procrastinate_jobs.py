"""The Procrastinate application of the worker; `SFP_BENCH_DATABASE` is its database's URL."""

import asyncio
import os

from procrastinate import App, PsycopgConnector

app = App(connector=PsycopgConnector(conninfo=os.environ["SFP_BENCH_DATABASE"]))


@app.task
async def trivial() -> int:
    process = await asyncio.create_subprocess_exec("true")
    return await process.wait()
