"""The checkpoint files: append-only, one a month, flushed to the disk before anybody is told that they are written."""

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from sfp_proof import checkpoint
from sfp_proof.checkpoint import Checkpoints, Head
from sfp_proof.keys import KeyRing
from sfp_server.audit.signer import Signer


class CheckpointFiles:
    """Appends to the files of one directory. The auditor is the only writer."""

    def __init__(self, directory: Path, signer: Signer, *, months: int = 0) -> None:
        """`months`: files that are kept, 0: all."""
        self._directory = directory
        self._signer = signer
        self._months = months
        self._previous = checkpoint.FIRST
        self._file: Path | None = None

    def open(self, keys: KeyRing) -> Checkpoints:
        """What was written before. An unfinished last line, of a crash, is taken away. Raises OSError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        files = checkpoint.files_at(self._directory)
        if files:
            _drop_unfinished(files[-1])
        found = checkpoint.read(files, keys)
        self._previous = found.last_line
        return found

    def append(self, head: Head, teams: Mapping[str, Head], changed: set[str]) -> None:
        """Write a line: how far the trail and, in it, the chains of `changed` teams have come. Raises OSError.

        The first line of a process and of a file names all of `teams`, so that a file can be read alone.
        """
        now = datetime.now(UTC)
        file = self._directory / f"checkpoints-{now:%Y-%m}.jsonl"
        is_whole = file != self._file or not file.exists()
        line = self._signer.checkpoint(
            {
                "at": now.isoformat(timespec="milliseconds"),
                "seq": head.seq,
                "mark": head.mark.hex(),
                "whole": is_whole,
                "teams": {team: [of.seq, of.mark.hex()] for team, of in teams.items() if is_whole or team in changed},
                "previous": self._previous,
            }
        )
        _append(file, json.dumps(line, ensure_ascii=False) + "\n")
        self._previous = checkpoint.hash_of(line)
        self._file = file
        if is_whole and self._months:
            for old in checkpoint.files_at(self._directory)[: -self._months]:
                old.unlink()


def _append(file: Path, text: str) -> None:
    """All of it, or nothing: what a full disk took half of is taken away again."""
    is_new = not file.exists()
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        try:
            _write(descriptor, text.encode())
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)
    if is_new:
        directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _drop_unfinished(file: Path) -> None:
    text = file.read_bytes()
    if text and not text.endswith(b"\n"):
        os.truncate(file, text.rfind(b"\n") + 1)
