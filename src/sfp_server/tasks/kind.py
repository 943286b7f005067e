"""A task type, as data: what its input looks like, what it needs, and what it runs.

A type is a `Kind`; the list of all kinds is made in `app.py` and handed to the service and the dispatcher.
`describe` is pure: input in, workload out, so that a test can compare it whole.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar
from uuid import UUID

import msgspec

from sfp_server.runtimes.base import Exit, Limits, Network, Workload
from sfp_server.tasks.model import Queue

Data = TypeVar("Data", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What a kind may know of the attempt it describes."""

    operation_id: str
    attempt: int
    network: Network
    limits: Limits
    grace_seconds: float
    #: (file, original name) of each input artifact that `Kind.inputs` named
    inputs: Mapping[UUID, tuple[Path, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind(Generic[Data]):
    """One task type."""

    name: str
    summary: str
    data: type[Data]
    describe: Callable[[Data, Circumstances], Workload]
    #: whether an exit is a success
    succeeded: Callable[[Data, Exit], bool]
    #: ids of the artifacts that the input refers to
    inputs: Callable[[Data], Sequence[UUID]]
    queue: Queue = Queue.NORMAL
    network: Network = Network.NONE
    #: kinds of credential it can be given
    credentials: tuple[str, ...] = ("secret", "integration")
    #: what a dispatcher's machine must have beside a runtime, by name; its tasks go nowhere else
    toolchain: str | None = None
    #: None: the instance's default
    timeout_seconds: int | None = None

    def schema(self) -> dict[str, Any]:
        """JSON Schema of `data`."""
        return msgspec.json.schema(self.data)


Kinds = Mapping[str, Kind[Any]]
