"""Reading XML in a process of its own, one per document. The API itself never parses XML.

The process has an empty environment and no descriptor but its two pipes, and gives the rest away before it reads
(`inside.py`). Here is what holds it from outside: a time, a size of what it says, and how many there are.
"""

import asyncio
import base64
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
import structlog

from sfp_server.errors import Unavailable
from sfp_server.identity.saml.facts import Assertion, Metadata, Refusal, Told
from sfp_server.identity.saml.inside import NOT_LOCKED

#: seconds for one document, the start of its process included
PATIENCE = 15.0
#: bytes that the room may say
_MOST_SAID = 4 * 1024 * 1024
#: processes at once; and documents that may wait for one
_ROOMS = 2
_WAITING = 20

_log = structlog.get_logger("saml")

Facts = TypeVar("Facts", Assertion, Metadata)


class XmlRefused(Exception):
    """The document is not taken. `reason` is one word for the audit trail, the text is fit for a page."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.text)
        self.reason = refusal.reason


_BROKEN = Refusal(reason="unreadable", text="the document cannot be read")


class XmlRoom:
    """Starts the processes. One per API process; nothing is left open between documents."""

    def __init__(
        self, *, command: Sequence[str] = (sys.executable, "-I", "-m", "sfp_server.identity.saml.inside")
    ) -> None:
        self._command = command
        self._rooms = asyncio.Semaphore(_ROOMS)
        self._waiting = 0

    async def response(self, document: bytes, certificates: Sequence[str]) -> Assertion:
        """The facts of a provider's answer that one of its keys has signed. Raises XmlRefused, Unavailable."""
        return await self._read("response", document, Assertion, certificates=list(certificates))

    async def metadata(self, document: bytes) -> Metadata:
        """What a provider's metadata says. Raises XmlRefused, Unavailable."""
        return await self._read("metadata", document, Metadata)

    async def _read(self, task: str, document: bytes, kind: type[Facts], **more: Any) -> Facts:
        asked = {"task": task, "document": base64.b64encode(document).decode(), **more}
        async with self._turn():
            said = await self._ask(msgspec.json.encode(asked) + b"\n")
        try:
            told = msgspec.json.decode(said, type=Told)
            if told.refused is not None:
                raise XmlRefused(told.refused)
            return msgspec.json.decode(told.facts, type=kind)
        except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
            _log.warning("a document made its reader say nonsense", task=task)
            raise XmlRefused(_BROKEN) from error

    @asynccontextmanager
    async def _turn(self) -> AsyncGenerator[None]:
        if self._waiting >= _WAITING:
            raise Unavailable("too many documents wait to be read", retry_after=5)
        self._waiting += 1
        try:
            async with self._rooms:
                yield
        finally:
            self._waiting -= 1

    async def _ask(self, line: bytes) -> bytes:
        """What a fresh process answers to `line`; it is gone afterwards, whatever happened."""
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={},
            cwd="/",
            start_new_session=True,
            limit=_MOST_SAID,
        )
        try:
            async with asyncio.timeout(PATIENCE):
                return await _converse(process, line)
        except (TimeoutError, ValueError, OSError) as error:  # ValueError: a longer line than asked for
            _log.warning("a document's reader was ended", error=type(error).__name__)
            raise XmlRefused(_BROKEN) from error
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def _converse(process: asyncio.subprocess.Process, line: bytes) -> bytes:
    assert process.stdin is not None  # both were asked for
    assert process.stdout is not None
    if await process.stdout.readline() != b"\n":
        code = await process.wait()
        if code == NOT_LOCKED:
            _log.error("XML cannot be read safely on this machine: libseccomp is missing or refuses")
            raise Unavailable("this server cannot read SAML documents: libseccomp is missing", retry_after=60)
        raise ValueError("it did not start")
    process.stdin.write(line)
    await process.stdin.drain()
    process.stdin.close()
    return await process.stdout.readline()
