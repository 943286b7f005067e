"""The words of a task's life, and the rules that need no I/O."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID


class Status(StrEnum):
    """The five public states; the last three are final."""

    PENDING = "pending"
    ACTIVE = "active"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self in {Status.COMPLETED, Status.FAILED, Status.CANCELLED}


class Queue(StrEnum):
    """`critical`: somebody is waiting; `normal`: day to day; `batch`: long."""

    CRITICAL = "critical"
    NORMAL = "normal"
    BATCH = "batch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often, and after how long, a failed attempt is tried again."""

    max_attempts: int = 1
    exponential: bool = True
    delay_seconds: float = 5.0
    max_delay_seconds: float = 300.0
    jitter: bool = True

    def delay_after(self, attempt: int) -> float | None:
        """Seconds to wait after attempt number `attempt` failed; None: it was the last one.

        Source: full jitter, AWS Architecture Blog, "Exponential Backoff And Jitter" (2015).
        """
        if attempt >= self.max_attempts:
            return None
        # 2**64 is beyond every ceiling; more would overflow a float
        factor = 2.0 ** min(attempt - 1, 64) if self.exponential else 1.0
        ceiling = min(self.max_delay_seconds, self.delay_seconds * factor)
        return random.uniform(0, ceiling) if self.jitter else ceiling  # noqa: S311 (spreads load, hides nothing)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskError:
    """Why a task failed. `code` is stable (api.md, section 12); `retryable`: another attempt may succeed."""

    code: str
    message: str
    retryable: bool = False


#: the scope that somebody else's task needs beside the route's own
OTHERS = "tasks:cancel-any"

#: what a retry can mend; the rest would fail the same way again
RETRYABLE = frozenset(
    {"exit_code", "timeout", "out_of_memory", "worker_lost", "workspace", "credential", "cannot_start"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A task that a dispatcher holds, at its current attempt."""

    id: UUID
    team_id: UUID
    type: str
    data: Mapping[str, Any]
    priority: Queue
    attempt: int
    #: attempts that made room for others; they do not count as tries
    preemptions: int
    retry: Retry
    timeout_seconds: float
    lease_seconds: float
    runtime: str | None
    toolchain: str | None
    network: str
    limits: Mapping[str, int]
    credentials: tuple[Mapping[str, Any], ...] = field(default=())
    started_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the machine of a dispatcher has to offer."""

    #: attempts at once; None: as many as the queues have slots
    slots: int | None = None
    #: name → version of what is installed beside the runtimes
    toolchains: Mapping[str, str] = field(default_factory=dict[str, str])
    #: Elsewhere than the instance. Such a dispatcher leaves the house to the instance's own, and ends its workers
    #: when it has not reached the database for as long as their leases last: then somebody else may run their tasks.
    remote: bool = False
