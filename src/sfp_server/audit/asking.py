"""The API's side of the auditor's desk."""

import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from sfp_server.errors import NotFinished, NotFound, SfpError, Unavailable

#: bytes of an answer; a receipt of a task with thousands of kept files fits
_MOST = 16 * 1024 * 1024
_PATIENCE = 10.0
_ERRORS: dict[str, type[SfpError]] = {error.code: error for error in (NotFinished, NotFound)}


class Auditor:
    """Asks the auditor. Every call raises Unavailable while it is away."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def receipt(self, *, team: UUID, task: UUID) -> dict[str, Any]:
        """The signed receipt of a task. Raises NotFound, NotFinished."""
        return await self._ask({"receipt": {"team": team, "task": task}}, _PATIENCE)

    async def verify(self, *, team: UUID, run: str | None, wait: float) -> dict[str, Any]:
        """The report about the team's chain, or `{"run", "complete": false, "entries"}` after `wait` seconds."""
        return await self._ask({"verify": {"team": team, "run": run, "wait": wait}}, wait + _PATIENCE)

    async def _ask(self, request: dict[str, Any], patience: float) -> dict[str, Any]:
        try:
            async with asyncio.timeout(patience):
                answer = msgspec.json.decode(await self._exchange(msgspec.json.encode(request)))
        except (OSError, TimeoutError, ValueError) as error:
            raise Unavailable("the auditor is away; try again shortly", retry_after=2) from error
        if "error" in answer:
            told = answer["error"]
            raise _ERRORS.get(told["code"], Unavailable)(told["message"])
        return answer["answer"]

    async def _exchange(self, line: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(self._socket, limit=_MOST)
        try:
            writer.write(line + b"\n")
            await writer.drain()
            return await reader.readline()
        finally:
            writer.close()
