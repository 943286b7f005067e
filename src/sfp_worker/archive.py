"""Unpacks an uploaded archive that somebody hostile may have made.

Names must stay inside, links must point inside, nothing but files, directories and links is made, and
size and count are bounded. Links are made last, so that nothing is ever written through one, and each is
followed once to see that it ends inside. A file that is no archive is put down under its name.
"""

from __future__ import annotations

import os
import stat
import tarfile
import zipfile
import zlib

from sfp_worker.failure import Failed
from sfp_worker.place import Place, clean_relative
from sfp_worker.workspace import cannot_write

TYPE_CHECKING = False  # typing costs more to import than all of this package
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

#: entries of one archive
MAX_ENTRIES = 100_000
#: directories below one another
MAX_DEPTH = 64
#: bytes of a name, and of a link's target
MAX_NAME = 4096
COPY_BYTES = 256 * 1024

FILE, FOLDER, LINK, HARD_LINK = "file", "folder", "link", "hard link"


class Entry:
    """One thing to make: `content` is read for a file only, at once."""

    def __init__(self, kind: str, name: str, mode: int, *, target: str = "", content: IO[bytes] | None = None) -> None:
        self.kind = kind
        self.name = name
        self.mode = mode
        self.target = target
        self.content = content


def unpack(place: Place, descriptor: int, name: str, *, max_bytes: int) -> None:
    """Unpack the file behind `descriptor` into the workspace, or put it there as `name`.

    Raises:
        Failed: `bad_archive`, `workspace`, `disk_limit`.
    """
    with open(descriptor, "rb") as file:
        try:
            entries = _entries(file)
            if entries is None:
                _Unpacker(place, max_bytes).write(Entry(FILE, _base(name), 0o644, content=file))
            else:
                _Unpacker(place, max_bytes).unpack(entries)
        except (
            tarfile.TarError,
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            ValueError,
            RuntimeError,
            NotImplementedError,
        ) as error:
            raise Failed("bad_archive", f"the archive cannot be read: {str(error)[:200]}") from error


def _base(name: str) -> str:
    return name.replace("\0", "").rstrip("/").rpartition("/")[2].strip(". ") or "artifact"


def _entries(file: IO[bytes]) -> Iterator[Entry] | None:
    """The entries, by what the file is, not by its name; None: no archive."""
    magic = file.read(4)
    file.seek(0)
    if magic[:4] in {b"PK\x03\x04", b"PK\x05\x06"}:
        return _zip_entries(zipfile.ZipFile(file))
    mode = "r:gz" if magic[:2] == b"\x1f\x8b" else "r:"
    try:
        return _tar_entries(tarfile.open(fileobj=file, mode=mode))
    except (tarfile.ReadError, EOFError, zlib.error, OSError):
        file.seek(0)
        return None


def _tar_entries(archive: tarfile.TarFile) -> Iterator[Entry]:
    for member in archive:
        if member.isreg():
            yield Entry(FILE, member.name, member.mode, content=archive.extractfile(member))
        elif member.isdir():
            yield Entry(FOLDER, member.name, member.mode)
        elif member.issym():
            yield Entry(LINK, member.name, 0, target=member.linkname)
        elif member.islnk():
            yield Entry(HARD_LINK, member.name, 0, target=member.linkname)
        else:
            raise Failed("bad_archive", f"the archive holds a device or worse: {member.name[:200]!r}")


def _zip_entries(archive: zipfile.ZipFile) -> Iterator[Entry]:
    for info in archive.infolist():
        mode = info.external_attr >> 16
        if info.is_dir():
            yield Entry(FOLDER, info.filename, mode or 0o755)
        elif stat.S_ISLNK(mode):
            yield Entry(LINK, info.filename, 0, target=archive.open(info).read(MAX_NAME + 1).decode())
        elif stat.S_IFMT(mode) in {0, stat.S_IFREG}:
            yield Entry(FILE, info.filename, mode or 0o644, content=archive.open(info))
        else:
            raise Failed("bad_archive", f"the archive holds a device or worse: {info.filename[:200]!r}")


class _Unpacker:
    def __init__(self, place: Place, max_bytes: int) -> None:
        self._top = os.path.realpath(place.src)
        self._room = max_bytes
        self._count = 0
        self._links: list[tuple[str, str]] = []

    def unpack(self, entries: Iterator[Entry]) -> None:
        for entry in entries:
            self._count += 1
            if self._count > MAX_ENTRIES:
                raise Failed("bad_archive", f"the archive holds more than {MAX_ENTRIES} entries")
            self.write(entry)
        self._make_links()

    def write(self, entry: Entry) -> None:
        path = self._path(entry.name)
        if path is None:
            return  # the top itself
        try:
            if entry.kind == FOLDER:
                os.makedirs(path, mode=0o755, exist_ok=True)
            else:
                os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
                self._write_leaf(entry, path)
        except OSError as error:
            raise cannot_write(error, entry.name) from error

    def _write_leaf(self, entry: Entry, path: str) -> None:
        if entry.kind == LINK:
            self._links.append((path, self._target(entry, path)))
        elif entry.kind == HARD_LINK:
            source = self._path(entry.target)
            if source is None:
                raise Failed("bad_archive", f"a link leads out of the archive: {entry.name[:200]!r}")
            os.link(source, path, follow_symlinks=False)
        else:
            self._copy(entry, path)

    def _path(self, name: str) -> str | None:
        if name.strip("/") in {"", "."} and not name.startswith("/"):
            return None
        try:
            clean = clean_relative(name)
        except ValueError:
            raise Failed("bad_archive", f"a name leads out of the archive: {name[:200]!r}") from None
        if clean.count("/") >= MAX_DEPTH or len(clean) > MAX_NAME:
            raise Failed("bad_archive", f"a name is too deep or too long: {clean[:200]!r}")
        return f"{self._top}/{clean}"

    def _target(self, entry: Entry, path: str) -> str:
        target = entry.target
        end = os.path.normpath(os.path.join(os.path.dirname(path), target))
        inside = end == self._top or end.startswith(self._top + "/")
        if not target or target.startswith("/") or "\0" in target or len(target) > MAX_NAME or not inside:
            raise Failed("bad_archive", f"a link leads out of the archive: {entry.name[:200]!r}")
        return target

    def _copy(self, entry: Entry, path: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        content = entry.content
        with open(os.open(path, flags, 0o600), "wb") as out:
            while content is not None and (data := content.read(COPY_BYTES)):
                self._room -= len(data)
                if self._room < 0:
                    raise Failed("bad_archive", "the archive is larger than the disk limit when unpacked")
                out.write(data)
            os.fchmod(out.fileno(), entry.mode & 0o777 | 0o600)

    def _make_links(self) -> None:
        try:
            for path, target in self._links:
                if os.path.lexists(path):
                    os.unlink(path)
                os.symlink(target, path)
        except OSError as error:
            raise Failed("bad_archive", "a link cannot be made") from error
        for path, _ in self._links:
            end = os.path.realpath(path)
            if end != self._top and not end.startswith(self._top + "/"):
                raise Failed("bad_archive", "a link leads out of the archive by way of another")
