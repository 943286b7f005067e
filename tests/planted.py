"""Looking for planted secrets wherever an instance could have left them: files, processes, the database.

A secret is looked for by a part of it that occurs nowhere else, raw, in hex, and inside longer base64 at each of the
three alignments; the part has letters, digits, - and _ only, so URL and JSON escapes leave it as it is. It is told where
something was found, never in which surroundings.
"""

import base64
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

#: bytes that are read at once, and that two reads share, so that nothing hides on the border
CHUNK, OVERLAP = 8 * 1024 * 1024, 512
#: what memory is mostly full of
EMPTY = re.compile(rb"\0{64,}")
#: bytes of the shortest part that cannot be there by chance
SHORTEST = 16


def forms(part: bytes) -> set[bytes]:
    """What `part` looks like in the usual encodings, also within something longer."""
    found = {part, part.hex().encode(), part.hex().upper().encode(), part.decode().encode("utf-16-le")}
    for lead in range(3):
        for encode in (base64.standard_b64encode, base64.urlsafe_b64encode):
            text = encode(b"\0" * lead + part).rstrip(b"=")
            # the characters at both ends also carry bits of the neighbours
            found.add(text[(0, 2, 3)[lead] : -1])
    return found


@dataclass
class Planted:
    """Secrets by name, and the parts by which they are known."""

    parts: dict[str, bytes] = field(default_factory=dict)

    def add(self, name: str, secret: str, *, whole: bool = False) -> str:
        """Know `secret` by its longest run of plain characters, or as a whole; answers the secret itself."""
        part = secret if whole else max(re.findall(r"[A-Za-z0-9_-]+", secret), key=len)
        assert len(part) >= SHORTEST, f"{name} has no part that cannot be there by chance"
        self.parts[name] = part.encode()
        return secret

    def search(self) -> "Search":
        return Search({form: name for name, part in self.parts.items() for form in forms(part)})


class Search:
    """All forms of all secrets, and what has been looked at."""

    def __init__(self, names: Mapping[bytes, str]) -> None:
        self._names = names
        #: what was found: (where, name of the secret)
        self.found: set[tuple[str, str]] = set()
        #: bytes that were looked at, by kind of place: a scan that saw nothing proves nothing
        self.seen: dict[str, int] = {}

    def look(self, where: str, data: bytes, *, kind: str) -> None:
        self.seen[kind] = self.seen.get(kind, 0) + len(data)
        self.found |= {(where, name) for form, name in self._names.items() if form in data}

    def files(self, roots: Iterable[Path]) -> None:
        """Every file below `roots`, whatever it is; sockets and links are only names."""
        for root in roots:
            for folder, _, names in os.walk(root):
                for name in names:
                    path = Path(folder, name)
                    self.look(str(path), os.fsencode(name), kind="names")
                    if path.is_file() and not path.is_symlink():
                        self._file(path)

    def _file(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                for chunk in _chunks(file):
                    self.look(str(path), chunk, kind="files")
        except FileNotFoundError:  # rotated or removed meanwhile
            return

    def process(self, pid: int, name: str, *, memory: bool, shared: bool = True) -> None:
        """Arguments and environment of a process, and what it holds in memory, with or without what others see too."""
        for what in ("cmdline", "environ"):
            try:
                self.look(f"{name}: {what}", Path(f"/proc/{pid}/{what}").read_bytes(), kind="processes")
            except OSError:  # it has ended, or is another user's
                return
        if memory:
            for chunk in memory_of(pid, shared=shared):
                self.look(f"{name}: memory", chunk, kind="memory")


def memory_of(pid: int, *, shared: bool) -> Iterator[bytes]:
    """All that a process can write to, piece by piece, without empty pages; what was unmapped meanwhile is left out."""
    try:
        maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
        memory = Path(f"/proc/{pid}/mem").open("rb", buffering=0)  # noqa: SIM115 (closed below)
    except OSError:
        return
    with memory:
        for line in maps:
            place, rights, *_ = line.split()
            first, last = (int(part, 16) for part in place.split("-"))
            if "rw" not in rights or (rights.endswith("s") and not shared):
                continue
            for start in range(first, last, CHUNK):
                try:
                    memory.seek(start)
                    yield EMPTY.sub(b"\0", memory.read(min(CHUNK + OVERLAP, last - start)))
                except (OSError, OverflowError, ValueError):
                    continue


def _chunks(file) -> Iterator[bytes]:
    rest = b""
    while chunk := file.read(CHUNK):
        yield rest + chunk
        rest = chunk[-OVERLAP:]
