"""What root sees of a worker from outside: its processes, their memory, and which physical pages they map."""

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

_PAGE = 4096
_PRESENT, _OF_A_FILE = 1 << 63, 1 << 61
_FRAME = (1 << 55) - 1
#: bytes of memory that are read at once
_CHUNK = 1 << 22


def can_see_frames() -> bool:
    """Whether the kernel tells us physical page numbers (CAP_SYS_ADMIN in the first user namespace)."""
    probe = bytearray(b"x" * 4 * _PAGE)
    return bool(frames(os.getpid())) and bool(probe)


@dataclass(frozen=True)
class Region:
    start: int
    end: int
    flags: str
    name: str


def regions(pid: int) -> Iterator[Region]:
    """The readable mappings of a process."""
    for line in _lines(f"/proc/{pid}/maps"):
        found = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \S+\s*(.*)", line)
        if found and found[3].startswith("r") and found[4] not in {"[vvar]", "[vsyscall]", "[vvar_vclock]"}:
            yield Region(int(found[1], 16), int(found[2], 16), found[3], found[4])


def holds(pid: int, marker: bytes) -> list[str]:
    """The mappings of a process in which `marker` stands."""
    found: list[str] = []
    try:
        memory = open(f"/proc/{pid}/mem", "rb", buffering=0)  # noqa: SIM115 (closed below)
    except OSError:
        return found
    with memory:
        for region in regions(pid):
            for start in range(region.start, region.end, _CHUNK):
                # the next chunk's beginning too: the marker may lie across
                size = min(_CHUNK + len(marker), region.end - start)
                if marker in _read(memory.fileno(), start, size):
                    found.append(f"{region.name or 'anonymous'} {region.flags}")
                    break
    return found


def frames(pid: int) -> set[int]:
    """Physical pages of a process's own (anonymous) memory that are there now; without the kernel's zero page."""
    found: set[int] = set()
    try:
        pagemap = open(f"/proc/{pid}/pagemap", "rb", buffering=0)  # noqa: SIM115 (closed below)
    except OSError:
        return found
    with pagemap:
        for region in regions(pid):
            count = (region.end - region.start) // _PAGE
            table = os.pread(pagemap.fileno(), count * 8, region.start // _PAGE * 8)
            entries = struct.unpack(f"={len(table) // 8}Q", table[: len(table) // 8 * 8])
            found.update(entry & _FRAME for entry in entries if entry & _PRESENT and not entry & _OF_A_FILE)
    return found - {0} - _zero_page(found)


def _zero_page(candidates: set[int]) -> set[int]:
    """Which of the pages are the kernel's one page of zeros: everybody maps it, nobody can write it."""
    zero: set[int] = set()
    with open("/proc/kpageflags", "rb", buffering=0) as flags:
        for frame in candidates:
            entry = os.pread(flags.fileno(), 8, frame * 8)
            if entry and struct.unpack("=Q", entry)[0] & (1 << 24):
                zero.add(frame)
    return zero


def family(argument: str) -> tuple[list[psutil.Process], list[psutil.Process]]:
    """The processes of the worker whose program has `argument` in its argv, and those that they descend from.

    A worker's own are the program, its supervisor (the program's parent), and all that the supervisor started; what is
    above may be shared with other workers. Not among them: the process that runs the tests.
    """
    program = next(
        process
        for process in psutil.process_iter(["cmdline"])
        if argument in (process.info["cmdline"] or []) and process.pid != os.getpid()
    )
    above: list[psutil.Process] = []
    for parent in program.parents():
        if parent.pid in {1, os.getpid()}:
            break
        above.append(parent)
    supervisor = above.pop(0) if above else program
    return [supervisor, *supervisor.children(recursive=True)], above


def connections(pid: int) -> set[str]:
    """Sockets and pipes that a process has open, each by its number in the kernel."""
    found: set[str] = set()
    for entry in _entries(Path(f"/proc/{pid}/fd")):
        try:
            target = os.readlink(entry)
        except OSError:
            continue
        if target.startswith(("socket:", "pipe:")):
            found.add(target)
    return found


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _read(descriptor: int, start: int, size: int) -> bytes:
    try:
        return os.pread(descriptor, size, start)
    except OSError:  # guard pages
        return b""
