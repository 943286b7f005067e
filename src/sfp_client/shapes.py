"""The JSON objects that the API answers with, as api.md names them.

They stay plain dictionaries: a newer server may add keys, and `--json` shows them all.
"""

from typing import Any, Literal, NotRequired, TypedDict

Status = Literal["pending", "active", "completed", "failed", "cancelled"]
Priority = Literal["critical", "normal", "batch"]

#: states that a task never leaves
FINAL: frozenset[str] = frozenset({"completed", "failed", "cancelled"})


class TaskError(TypedDict):
    code: str
    message: str
    retryable: bool


class Submitted(TypedDict):
    """Answer of `POST /tasks`."""

    operationId: str
    type: str
    status: Status
    reason: str | None
    channel: str
    createdAt: str
    links: dict[str, str]


class TaskStatus(TypedDict):
    """Answer of `GET /tasks/{id}/status`; times ISO 8601 UTC."""

    operationId: str
    type: str
    status: Status
    reason: str | None
    #: 0-100
    progress: int
    step: str
    attempt: int
    error: TaskError | None
    createdAt: str
    startedAt: str | None
    finishedAt: str | None


class CommandResult(TypedDict):
    """`result` of a `command` task."""

    exitCode: int | None
    signal: int | None
    durationMs: int
    output: Any
    artifacts: list[dict[str, Any]]


class TaskResult(TaskStatus):
    """Answer of `GET /tasks/{id}/result`; `result` is a CommandResult for type `command`."""

    result: NotRequired[Any]


class LogEntry(TypedDict):
    """One line: `stream` is stdout, stderr or system."""

    seq: int
    at: str
    stream: str
    level: str
    message: str


class Page(TypedDict):
    """One page of a list."""

    items: list[dict[str, Any]]
    nextCursor: str | None


class Artifact(TypedDict):
    """A kept or uploaded file; size in bytes, sha256 in hex."""

    id: NotRequired[str]
    name: NotRequired[str]
    size: int
    sha256: str


class TokenPair(TypedDict):
    """Answer of a sign-in or a refresh; `expires_in` in seconds."""

    access_token: str
    refresh_token: str
    token_type: NotRequired[str]
    expires_in: NotRequired[float]
    user: NotRequired[dict[str, Any]]


class DeviceCodes(TypedDict):
    """A sign-in without a browser: what to show, what to poll with; `expires_in` and `interval` in seconds."""

    device_code: str
    user_code: str
    verification_uri: str
    verification_uri_complete: str
    expires_in: int
    interval: int


class ApplicationToken(TypedDict):
    id: str
    name: str
    expiresAt: str
    scopes: NotRequired[list[str]]
    #: shown once, when it is made
    token: NotRequired[str]
    team: NotRequired[str]
    createdAt: NotRequired[str]
    createdBy: NotRequired[str]
    lastUsedAt: NotRequired[str | None]
    status: NotRequired[str]
