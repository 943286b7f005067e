"""`logs`: the services' own logs, one file each; workers are parts of the dispatcher's log."""

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sfp_server.instance.place import Place
from sfp_server.instance.problem import InstanceError

SERVICES = (
    "api",
    "dispatcher",
    "broker",
    "deliverer",
    "auditor",
    "courier",
    "postgres",
    "cache",
    "caddy",
    "access",
    "supervisord",
    "guard",
)
#: `critical-worker` is what the dispatcher says about that queue
QUEUES = {f"{queue}-worker": queue for queue in ("critical", "normal", "batch")}
#: a log is read backwards in pieces of so many bytes
PIECE = 64 * 1024


@dataclass(slots=True, kw_only=True)
class _Log:
    """One file that is followed over rotations: `position` is what has been read of the file with `inode`."""

    service: str
    path: Path
    queue: str | None = None
    position: int = 0
    inode: int = 0
    rest: bytes = field(default=b"")

    def tail(self, count: int) -> list[str]:
        """The last `count` lines; following goes on behind them."""
        try:
            with self.path.open("rb") as file:
                self.inode = os.fstat(file.fileno()).st_ino
                self.position = file.seek(0, os.SEEK_END)
                data, start, wanted = b"", self.position, 0 if count == 0 else count + 1
                while start > 0 and wanted and (self.queue or data.count(b"\n") < wanted):
                    start = max(0, start - PIECE)
                    file.seek(start)
                    data = file.read(self.position - start)
        except OSError:
            return []
        lines = [line for line in data.decode(errors="replace").splitlines() if self.wants(line)]
        return lines[-count:] if count else []

    def news(self) -> Iterator[str]:
        """Whole lines written since the last call; after a rotation the new file from its beginning."""
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self.inode or status.st_size < self.position:
                    self.inode, self.position, self.rest = status.st_ino, 0, b""
                file.seek(self.position)
                data = self.rest + file.read(4 * 1024 * 1024)
                self.position = file.tell()
        except OSError:
            return
        *whole, self.rest = data.split(b"\n")
        for line in whole:
            text = line.decode(errors="replace")
            if self.wants(text):
                yield text

    def wants(self, line: str) -> bool:
        if self.queue is None:
            return True
        try:
            return json.loads(line).get("queue") == self.queue
        except (ValueError, AttributeError):
            return False


def show(at: Place, service: str | None, *, tail: int, follow: bool, as_json: bool) -> None:
    """Print to stdout; with `follow` until interrupted. Raises InstanceError (usage) for an unknown service."""
    logs = _chosen(at, service)
    several = len(logs) > 1
    lines = [(log.service, line) for log in logs for line in log.tail(tail)]
    if as_json and not follow:
        sys.stdout.write(json.dumps([_entry(name, line) for name, line in lines]) + "\n")
        return
    for name, line in lines:
        _write(name, line, several=several, as_json=as_json)
    while follow:
        for log in logs:
            for line in log.news():
                _write(log.service, line, several=several, as_json=as_json)
        sys.stdout.flush()
        time.sleep(0.2)


def _chosen(at: Place, service: str | None) -> list[_Log]:
    name = {"app": "api", "worker": "dispatcher"}.get(service or "", service)
    if name in QUEUES:
        return [_Log(service=name, path=at.logs / "dispatcher.log", queue=QUEUES[name])]
    if name is not None and name not in SERVICES:
        known = ", ".join(["app", *SERVICES[1:], *QUEUES])
        raise InstanceError(f"there is no service '{name}': choose one of {known}", exit_code=2)
    names = [name] if name else [each for each in SERVICES if each != "access"]
    return [_Log(service=each, path=path) for each in names for path in _files(at, each)]


def _files(at: Place, service: str) -> list[Path]:
    """`api.log`, or `api-1.log`, `api-2.log` when there are several processes."""
    single = at.logs / f"{service}.log"
    return sorted(at.logs.glob(f"{service}-[0-9]*.log")) + ([single] if single.exists() else [])


def _entry(service: str, line: str) -> dict[str, object]:
    """A structured line stays structured."""
    try:
        document = json.loads(line)
    except ValueError:
        document = None
    return {"service": service, "line": document if isinstance(document, dict) else line}


def _write(service: str, line: str, *, several: bool, as_json: bool) -> None:
    text = json.dumps(_entry(service, line)) if as_json else f"{service:<11} {line}" if several else line
    sys.stdout.write(text + "\n")
