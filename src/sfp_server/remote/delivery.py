"""Files of attempts on another machine: carried by the courier, spooled in the dispatcher's own directory."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import structlog

from sfp_server.remote.client import Brought, CourierClient, Refused, Unreachable
from sfp_server.tasks.artifacts import ArtifactStore, Draft, Stored
from sfp_server.tasks.delivery import Undeliverable
from sfp_server.tasks.model import Claimed

log = structlog.get_logger()

#: seconds between tries
_PAUSE_SECONDS = 0.5
#: seconds without any progress after which an input is given up
_PATIENCE_SECONDS = 60.0


class RemoteDelivery:
    """As `tasks.delivery.Delivery`; `spool` is a store of this machine's own."""

    def __init__(self, courier: CourierClient, spool: ArtifactStore) -> None:
        self._courier = courier
        self._spool = spool

    def remove_leftovers(self) -> None:
        """Delete what an earlier dispatcher had in hand: its attempts are over."""
        for path in self._spool.path_of("").iterdir():
            path.unlink(missing_ok=True)

    async def fetch(self, task: Claimed, artifact_id: UUID) -> tuple[Path, str]:
        """As `Delivery.fetch`."""
        path = self._spool.path_of(f"{task.id}-{task.attempt}-{artifact_id}.input")
        until, had = asyncio.get_running_loop().time() + _PATIENCE_SECONDS, 0
        while True:
            try:
                return path, await self._courier.fetch(task.id, artifact_id, path)
            except Refused as refused:
                raise FileNotFoundError from refused
            except OSError as error:
                raise Undeliverable(error.strerror or "the disk is failing") from error
            except Unreachable as error:
                have = path.stat().st_size if path.exists() else 0
                now = asyncio.get_running_loop().time()
                if have > had:
                    until, had = now + _PATIENCE_SECONDS, have
                if now > until:
                    raise Undeliverable(str(error)) from error
            await asyncio.sleep(_PAUSE_SECONDS)

    def release(self, path: Path) -> None:
        """As `Delivery.release`."""
        path.unlink(missing_ok=True)

    def draft(self) -> Draft:
        """As `Delivery.draft`."""
        return self._spool.draft()

    async def keep(self, task: Claimed, name: str, draft: Draft, *, wanted: Callable[[], bool]) -> Stored | None:
        """As `Delivery.keep`."""
        stored = draft.keep()
        path = self._spool.path(stored.id)
        brought = Brought(
            task=task.id,
            attempt=task.attempt,
            artifact=stored.id,
            name=name,
            path=path,
            size=stored.size,
            sha256=stored.sha256,
        )
        try:
            return stored if await self._bring(brought, wanted) else None
        finally:
            path.unlink(missing_ok=True)

    async def _bring(self, brought: Brought, wanted: Callable[[], bool]) -> bool:
        """Until it is stored, refused, or nobody wants it. Raises OSError when it cannot be had."""
        while wanted():
            try:
                await self._courier.keep(brought)
            except Unreachable as error:
                log.warning("a kept file waits for the courier", why=str(error), task=str(brought.task))
            except Refused as refused:
                if refused.code in {"stale", "unknown"}:
                    return False
                if refused.code != "damaged":
                    raise OSError(0, str(refused)) from refused
            else:
                return True
            await asyncio.sleep(_PAUSE_SECONDS)
        return False
