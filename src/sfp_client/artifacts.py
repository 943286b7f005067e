"""Uploads for workspaces, and downloads of what tasks kept. Both are checked against their SHA-256."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol, cast
from urllib.parse import quote

from sfp_client.errors import Refused
from sfp_client.shapes import Artifact
from sfp_client.transport import Transport

CHUNK = 256 * 1024


class Artifacts:
    """Files on the server."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def upload(self, file: str | Path, *, name: str | None = None) -> Artifact:
        """Upload a file; its `id` goes into a workspace. An archive (tar, tar.gz, zip) will be unpacked there."""
        path = Path(file)
        digest = hashlib.sha256()
        with path.open("rb") as source:
            length = os.fstat(source.fileno()).st_size
            made = cast(
                "Artifact",
                self._transport.upload(
                    "/artifacts", _hashed(source, digest), params={"name": name or path.name}, length=length
                ),
            )
        _same(made["sha256"], digest.hexdigest(), str(path))
        return made

    def delete(self, artifact_id: str) -> None:
        self._transport.json("DELETE", f"/artifacts/{quote(artifact_id, safe='')}")

    def of_task(self, operation_id: str) -> list[Artifact]:
        """The files that a task kept: name, size, sha256."""
        return cast("list[Artifact]", self._transport.items(f"/tasks/{quote(operation_id, safe='')}/artifacts"))

    def download(self, operation_id: str, name: str, to: str | Path, *, sha256: str | None = None) -> Path:
        """Write a kept file to the path `to`, whole or not at all. Raises Refused when `sha256` differs."""
        target = Path(to)
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        address = f"/tasks/{quote(operation_id, safe='')}/artifacts/{quote(name, safe='/')}"
        descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name[:100]}.", dir=target.parent)
        try:
            with os.fdopen(descriptor, "wb") as file, self._transport.stream(address) as response:
                for chunk in response.iter_bytes(CHUNK):
                    digest.update(chunk)
                    file.write(chunk)
            _same(digest.hexdigest(), sha256 or digest.hexdigest(), name)
            Path(temporary).chmod(0o666 & ~_umask())
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return target


def inside(directory: Path, name: str) -> Path:
    """Where a kept file goes below `directory`. Raises Refused for a name that leads out: a task chose it."""
    root = directory.resolve()
    target = (root / name).resolve()
    if "\0" in name or target == root or not target.is_relative_to(root):
        raise Refused(f"the task kept a file under the name {name[:80]!r}, which leads out of {directory}")
    return target


def _same(found: str, expected: str, name: str) -> None:
    if found != expected:
        raise Refused(f"{name} arrived damaged: try again")


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...


def _hashed(source: IO[bytes], digest: _Digest) -> Iterator[bytes]:
    while chunk := source.read(CHUNK):
        digest.update(chunk)
        yield chunk


def _umask() -> int:
    """What the user lets others do with new files; a temporary file starts private."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
