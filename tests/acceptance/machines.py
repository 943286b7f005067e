"""Other machines, on this one: each has a network of its own, and a view of the files without the instance's."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from acceptance.conftest import Instance

PROGRAM = Path(sys.executable).with_name("sfp-server")
#: TEST-NET-2 (RFC 5737): an address that is nobody's
PREFIX = "198.51.100"


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@dataclass
class Wire:
    """The instance's end of a cable, with a bridge for all machines; `address` is the instance's on it."""

    name: str
    address: str = f"{PREFIX}.1"
    machines: list["Machine"] = field(default_factory=list)

    def machine(self, instance: Instance, directory: Path, name: str, *, slots: int, token: str = "") -> "Machine":
        """A machine that was added to the instance (or has another token); it does not run yet."""
        added = add(instance, name, slots)
        number = len(self.machines) + 2
        made = Machine(self, instance, directory, name, number, added)
        if token:
            made.added["token"] = token
        made.plug()
        self.machines.append(made)
        return made


def add(instance: Instance, name: str, slots: int) -> dict[str, str]:
    done = subprocess.run(
        [str(PROGRAM), "dispatcher", "add", "-t", instance.tenant, "--base-dir", str(instance.base), name,
         "--slots", str(slots), "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


@contextmanager
def wire() -> Iterator[Wire]:
    """A bridge with the instance's address; it goes with all that hangs on it."""
    name = f"sfpb{os.getpid() % 100000}"
    # an address of its own: it would take, and change, that of a machine's cable, and be unknown for a while
    ip("link", "add", name, "address", "02:00:00:00:00:01", "type", "bridge")
    made = Wire(name)
    try:
        ip("addr", "add", f"{made.address}/24", "dev", name)
        ip("link", "set", name, "up")
        yield made
    finally:
        for machine in made.machines:
            machine.remove()
        ip("link", "del", name)


@dataclass
class Machine:
    """One other machine and its dispatcher."""

    wire: Wire
    instance: Instance
    directory: Path
    name: str
    number: int
    added: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    #: where the log of the present dispatcher begins
    begins: int = 0

    @property
    def _cable(self) -> str:
        return f"{self.wire.name}m{self.number}"

    @property
    def log(self) -> str:
        """What the present dispatcher has said."""
        return (self.directory / "log").read_text()[self.begins :]

    def plug(self) -> None:
        """Make its network: a namespace, and a cable to the bridge."""
        self.directory.mkdir(parents=True)
        ip("netns", "add", self._cable)
        ip("link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", self._cable)
        ip("link", "set", self._cable, "master", self.wire.name, "up")
        ip("-n", self._cable, "addr", "add", f"{PREFIX}.{self.number}/24", "dev", "eth0")
        ip("-n", self._cable, "link", "set", "eth0", "up")
        ip("-n", self._cable, "link", "set", "lo", "up")
        token = self.directory / "token"
        token.touch(mode=0o600)
        token.write_text(self.added["token"])

    def start(self, *options: str) -> "Machine":
        """Start its dispatcher; it sees nothing of the instance's directory."""
        arguments = [
            "dispatch", "--database-url", self.added["databaseUrl"], "--broker", self.added["broker"],
            "--token-file", str(self.directory / "token"), "--work-dir", str(self.directory / "work"), *options,
        ]  # fmt: skip
        hide = 'mount -t tmpfs none "$1" && shift && exec "$@"'
        command = ["nsenter", f"--net=/run/netns/{self._cable}", "unshare", "--mount", "sh", "-c", hide, "hide"]
        clean = {"PATH": os.environ["PATH"], "HOME": str(self.directory), "LANG": "C.UTF-8"}
        with (self.directory / "log").open("ab") as log:
            self.begins = log.tell()
            self.process = subprocess.Popen(
                [*command, str(self.instance.base), str(PROGRAM), *arguments], env=clean, stdout=log, stderr=log
            )
        return self

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log
        return "dispatcher ready" in self.log

    def cut(self) -> None:
        """Pull the cable."""
        ip("link", "set", self._cable, "down")

    def join(self) -> None:
        """Plug it in again."""
        ip("link", "set", self._cable, "up")

    def freeze(self, *, with_leash: bool = False) -> None:
        """Freeze the dispatcher, and what watches over it, too, if so asked; not the workers."""
        self._signal(signal.SIGSTOP, with_leash=with_leash)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT, with_leash=True)

    def _signal(self, number: signal.Signals, *, with_leash: bool) -> None:
        assert self.process is not None
        dispatcher = psutil.Process(self.process.pid)
        leash = [child for child in dispatcher.children() if child.cmdline() == dispatcher.cmdline()]
        assert leash
        for process in leash if with_leash else []:
            process.send_signal(number)
        dispatcher.send_signal(number)

    def kill(self) -> None:
        """`kill -9` of the dispatcher."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)
        self.process = None

    def ended(self, timeout: float = 30) -> int:
        """Its exit status, once it has ended by itself."""
        assert self.process is not None
        status = self.process.wait(timeout)
        self.process = None
        return status

    def stop(self) -> None:
        """End it in order; twice is fine."""
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait(10)

    def remove(self) -> None:
        self.stop()
        with suppress(subprocess.CalledProcessError):
            ip("netns", "del", self._cable)


def running(marker: str) -> list[int]:
    """Processes whose arguments hold the marker, other than ours: is a task's program still there?"""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if marker in words and process.pid != os.getpid():
            found.append(process.pid)
    return found
