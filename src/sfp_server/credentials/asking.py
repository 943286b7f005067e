"""How the API, and the instance's own commands, ask the broker's desk."""

import asyncio
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import msgspec

from sfp_server.credentials.desk import ERRORS, AskIntegration, AskKeys, AskRotate
from sfp_server.errors import CredentialRefused, SfpError, Unavailable
from sfp_server.web.logs import current_request_id

_SECONDS = 25.0
_BYTES = 4 * 1024 * 1024


class Asking:
    """One question, one connection."""

    def __init__(self, socket: Path, key: str) -> None:
        self._socket = socket
        self._key = key

    async def integration(self, actor: str, team: UUID, provider: str, project: str | None) -> dict[str, Any]:
        """`{id, authType, credentials, config}`. Raises NotFound, CredentialRefused, Unavailable."""
        return await self._ask(
            AskIntegration(
                key=self._key,
                actor=actor,
                team=team,
                request_id=current_request_id(),
                provider=provider,
                project=project,
            )
        )

    async def rotate(self, actor: str, team: UUID | None) -> int:
        """Version of the new key pair. Raises Conflict, CredentialRefused, Unavailable."""
        asked = AskRotate(key=self._key, actor=actor, team=team, request_id=current_request_id())
        return (await self._ask(asked))["version"]

    async def keys(self, actor: str) -> dict[str, Any]:
        """`{keys: [{version, created_at, sealed, is_current}], broken}`. Raises Unavailable."""
        return await self._ask(AskKeys(key=self._key, actor=actor))

    async def _ask(self, question: AskIntegration | AskRotate | AskKeys) -> Any:
        try:
            async with asyncio.timeout(_SECONDS):
                line = await self._line(msgspec.json.encode(question) + b"\n")
            said = cast("dict[str, Any]", msgspec.json.decode(line))
        except (OSError, TimeoutError, ValueError, msgspec.MsgspecError) as error:
            raise Unavailable("the credential broker is away; try again shortly", retry_after=2) from error
        if "answer" in said:
            return said["answer"]
        error = said["error"]
        kind: type[SfpError] = ERRORS.get(error["code"], CredentialRefused)
        raise kind(str(error["message"]))

    async def _line(self, question: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(self._socket, limit=_BYTES)
        try:
            writer.write(question)
            await writer.drain()
            return await reader.readline()
        finally:
            writer.close()
