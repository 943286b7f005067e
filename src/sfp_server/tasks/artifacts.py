"""Artifacts: uploaded inputs and kept outputs. Facts in the database, bytes in private files named by id."""

import asyncio
import hashlib
from collections.abc import AsyncIterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from uuid import UUID, uuid4

from sfp_server.errors import TooLarge, Unavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A file that is complete and has its final name."""

    id: UUID
    size: int
    sha256: str


class Draft:
    """A file being written; nobody sees it before `keep`."""

    def __init__(self, directory: Path) -> None:
        self.id = uuid4()
        self._directory = directory
        self._path = directory / f"{self.id}.part"
        self._file: IO[bytes] = self._path.open("xb")
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, chunk: bytes) -> None:
        """Append. Raises OSError (disk full)."""
        self._file.write(chunk)
        self._hash.update(chunk)
        self.size += len(chunk)

    def keep(self) -> Stored:
        """Make it durable under its final name. Raises OSError."""
        self._file.close()
        self._path.rename(self._directory / str(self.id))
        return Stored(id=self.id, size=self.size, sha256=self._hash.hexdigest())

    def discard(self) -> None:
        """Forget it. Discarding twice, or after `keep`, is fine."""
        with suppress(OSError):
            self._file.close()
        self._path.unlink(missing_ok=True)


class ArtifactStore:
    """Files of one instance, in a private directory (0700, files 0600 by the service's umask)."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory

    def path(self, artifact_id: UUID) -> Path:
        """Where the bytes of an artifact are."""
        return self._directory / str(artifact_id)

    def path_of(self, name: str) -> Path:
        """Where a file that is no artifact yet is; the name is ours, never a client's. Empty: the directory."""
        return self._directory / name if name else self._directory

    def draft(self) -> Draft:
        """Begin a new file. Raises OSError."""
        return Draft(self._directory)

    def remove(self, artifact_id: UUID) -> None:
        """Delete the bytes. Twice is fine."""
        self.path(artifact_id).unlink(missing_ok=True)

    def remove_drafts(self) -> None:
        """Delete what a killed process left half-written."""
        for part in self._directory.glob("*.part"):
            part.unlink(missing_ok=True)

    async def receive(self, chunks: AsyncIterable[bytes], *, limit: int) -> Stored:
        """Write a stream to a new file.

        Raises:
            TooLarge: more than `limit` bytes came.
            Unavailable: the disk is full or broken.
        """
        draft = await asyncio.to_thread(self.draft)
        try:
            async for chunk in chunks:
                if draft.size + len(chunk) > limit:
                    raise TooLarge(f"the upload is larger than {limit // 1024 // 1024} MiB")
                await asyncio.to_thread(draft.write, chunk)
            return await asyncio.to_thread(draft.keep)
        except OSError as error:
            raise Unavailable(
                "the artifact cannot be stored now: the disk is full or failing", retry_after=60
            ) from error
        finally:
            draft.discard()
