"""The seam between the task engine and what runs a worker: three verbs.

`Workload` says what to run, as data; it has no field for a secret. `Attendant` is whom the runtime
calls while the worker runs. A runtime never trusts what a worker says: reports are bounded and
parsed before they get here, and the exit status comes from the kernel.

Every implementation must pass tests/conformance/test_runtimes.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol


class Network(StrEnum):
    """What a worker can reach: nothing, or the outside without loopback, private and link-local addresses."""

    NONE = "none"
    EGRESS = "egress"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Ceilings for one worker."""

    memory_mb: int = 2048
    #: size of the worker's tmpfs
    disk_mb: int = 1024
    processes: int = 256
    #: None: only the task's timeout ends it
    cpu_seconds: int | None = None
    #: bytes of stdout and stderr together, after which the attempt fails with `output_limit`
    output_bytes: int = 16 * 1024 * 1024
    #: bytes of kept artifacts together
    artifact_bytes: int = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """A workspace of small text files: relative path → text."""

    files: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A workspace from an uploaded artifact: tar, tar.gz, zip are unpacked; anything else is one file."""

    path: Path
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Git:
    """A workspace cloned inside the worker, in a step that reaches the host of `url` only."""

    url: str
    ref: str | None = None
    depth: int | None = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One attempt, as data. Equal workloads run the same thing."""

    #: names the worker in process lists, cgroups and logs: `<operationId>/<attempt>`
    operation_id: str
    attempt: int
    #: task type; a container runtime has an image for it
    kind: str = ""
    #: name of the toolchain that the worker finds in front of its PATH
    toolchain: str | None = None
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    stdin: str | None = None
    #: relative to the workspace
    workdir: str = "."
    workspace: Files | Archive | Git | None = None
    #: globs relative to the workspace; matching regular files are kept
    artifacts: Sequence[str] = ()
    network: Network = Network.NONE
    limits: Limits = field(default_factory=Limits)
    #: seconds between SIGTERM and SIGKILL when the attempt is asked to end
    grace_seconds: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """A line of output, redacted in the worker. Lines over 16 KiB arrive in pieces."""

    stream: str  # stdout | stderr | system
    message: str
    #: when the worker read it, seconds since the epoch (its own clock: for display only)
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why an attempt failed although (or before) its program ran; `code` as in the API contract, section 12."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the attempt used."""

    cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0
    output_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a worker ended, by the kernel's word.

    `code` is the program's exit status (None when it died by `signal` or never started).
    `failure` names what ended it other than itself: workspace, credential, bad_archive, output_limit,
    disk_limit, out_of_memory, invalid_result, worker_lost, cannot_start.
    """

    code: int | None = None
    signal: int | None = None
    failure: Failure | None = None
    #: JSON value written to the file named by SFP_RESULT, redacted; None when there was none
    output: Any = None
    usage: Usage = field(default_factory=Usage)


class Attendant(Protocol):
    """Whom a runtime calls while the worker runs; each call is awaited before more is read (back-pressure)."""

    #: redeems this attempt's credentials at the broker, once; None when the task declares none
    ticket: str | None

    async def log(self, lines: Sequence[LogLine]) -> None:
        """Lines in the order in which the worker read them."""
        ...

    async def progress(self, percent: int, text: str) -> None:
        """`percent` is 0 to 100; the latest one counts."""
        ...

    async def artifact(self, name: str, chunk: bytes, *, last: bool) -> None:
        """Content of a kept file, in order; `name` is a clean relative path."""
        ...


Handle = str  #: JSON-safe, saved in the attempt's row; names the worker even after the dispatcher restarted


class RuntimeUnavailable(Exception):
    """No worker can be started now; try again later. The text says what is missing."""


class Runtime(Protocol):
    """How a worker is made."""

    name: str

    async def open(self) -> None:
        """Prepare: start warm workers, remove leftovers of an earlier dispatcher."""
        ...

    async def close(self) -> None:
        """End every worker and free everything."""
        ...

    async def start(self, workload: Workload, attendant: Attendant) -> Handle:
        """Return once the worker is running. Raises RuntimeUnavailable."""
        ...

    async def wait(self, handle: Handle) -> Exit:
        """Return when the worker has ended; again and again gives the same answer.

        A handle of an earlier dispatcher's worker answers `Exit(failure=worker_lost)` once it is gone.
        """
        ...

    async def terminate(self, handle: Handle) -> None:
        """Ask the program to end (SIGTERM to all its processes, SIGKILL after the grace period)."""
        ...

    async def stop(self, handle: Handle) -> None:
        """End the whole process tree now and free everything. Stopping twice is fine."""
        ...

    def isolation(self) -> dict[str, str]:
        """What is in force on this machine, for `status` and `doctor`: wall → how, or why not."""
        ...
