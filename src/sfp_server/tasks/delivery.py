"""Where a worker's input files come from, and where the files that it kept go.

On the instance's own machine both are a directory; a dispatcher elsewhere has them carried (`remote/delivery.py`).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from sfp_server.db.database import Database
from sfp_server.tasks.artifacts import ArtifactStore, Draft, Stored
from sfp_server.tasks.model import Claimed
from sfp_server.tasks.steps import SQL, persistently


class Undeliverable(Exception):
    """An input cannot be had now; another attempt may have more luck."""


class Delivery(Protocol):
    """Carries the files of attempts. Files are private to the dispatcher's user."""

    async def fetch(self, task: Claimed, artifact_id: UUID) -> tuple[Path, str]:
        """A file to read, and its original name.

        Raises FileNotFoundError (it was deleted), Undeliverable.
        """
        ...

    def release(self, path: Path) -> None:
        """The worker has what it needs of a fetched file. Twice is fine."""
        ...

    def draft(self) -> Draft:
        """A new file for what a worker keeps. Raises OSError."""
        ...

    async def keep(self, task: Claimed, name: str, draft: Draft, *, wanted: Callable[[], bool]) -> Stored | None:
        """Store a complete file, bytes first, then its row. None: the attempt is not the current one.

        Goes on trying while the instance is away, as long as `wanted`. Raises OSError.
        """
        ...


class LocalDelivery:
    """Of the instance's own dispatcher: the artifact store is a directory of this machine."""

    def __init__(self, database: Database, store: ArtifactStore) -> None:
        self._database = database
        self._store = store

    async def fetch(self, task: Claimed, artifact_id: UUID) -> tuple[Path, str]:
        """As `Delivery.fetch`."""
        async with self._database.serving(task.team_id) as tx:
            row = await tx.one(SQL["input"], artifact_id)
        path = self._store.path(artifact_id)
        if row is None or not path.is_file():
            raise FileNotFoundError
        return path, row["name"]

    def release(self, path: Path) -> None:
        """The store keeps its files."""

    def draft(self) -> Draft:
        """As `Delivery.draft`."""
        return self._store.draft()

    async def keep(self, task: Claimed, name: str, draft: Draft, *, wanted: Callable[[], bool]) -> Stored | None:  # noqa: ARG002 (the same for both)
        """As `Delivery.keep`."""
        stored = draft.keep()

        async def once() -> Any:
            async with self._database.serving(task.team_id) as tx:
                values = (stored.id, task.id, task.attempt, name, stored.size, stored.sha256)
                return await tx.value(SQL["add_kept"], *values)

        if await persistently(once):
            return stored
        self._store.remove(stored.id)
        return None
