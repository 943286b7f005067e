"""What can go wrong between a client and its server.

ClientError
├── ApiError            the server refused: status, code, detail, errors, request_id
│   ├── NotSignedIn     401
│   ├── NotAllowed      403
│   └── NotFound        404, also: not yours
├── Unreachable         no answer: connection refused, name unknown, certificate not trusted
├── TimedOut            a wait reached its limit; what was waited for goes on
└── Refused             the client itself refuses (a token over plain HTTP, a broken download)
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast


class ClientError(Exception):
    """Base of all expected failures; its text is one sentence for a person."""


class Unreachable(ClientError):
    """The server did not answer."""


class TimedOut(ClientError):
    """A wait reached its limit."""


class Refused(ClientError):
    """The client does not do this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldProblem:
    """One wrong place in a request: `path` as in `data.argv[0]`."""

    path: str
    message: str


class ApiError(ClientError):
    """The server refused a request.

    Attributes:
        status: HTTP status.
        code: stable word for programs, as in `not_finished`.
        errors: the wrong fields, when the request was malformed.
        request_id: finds the request in the server's log.
        retry_after: seconds, when the server named them.
    """

    def __init__(
        self,
        detail: str,
        *,
        status: int,
        code: str = "error",
        errors: tuple[FieldProblem, ...] = (),
        request_id: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = errors
        self.request_id = request_id
        self.retry_after = retry_after


class NotSignedIn(ApiError):
    """No token, or one that opens nothing (any more)."""


class NotAllowed(ApiError):
    """The actor is known and may not."""


class NotFound(ApiError):
    """It does not exist, or belongs to another team."""


_BY_STATUS: Mapping[int, type[ApiError]] = {401: NotSignedIn, 403: NotAllowed, 404: NotFound}


def api_error(status: int, body: bytes, headers: Mapping[str, str]) -> ApiError:
    """The error that an answer tells: problem details (RFC 9457), or whatever a proxy in between says."""
    problem = _problem(body)
    detail = problem.get("detail") or problem.get("title") or problem.get("message") or f"the server answered {status}"
    return error_for(status)(
        str(detail),
        status=status,
        code=str(problem.get("code") or f"http_{status}"),
        errors=_fields(problem.get("errors")),
        request_id=str(problem.get("requestId") or headers.get("x-request-id", "")),
        retry_after=retry_after(headers),
    )


def error_for(status: int) -> type[ApiError]:
    """The class that stands for an HTTP status."""
    return _BY_STATUS.get(status, ApiError)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds in `Retry-After`; None when there are none (the HTTP-date form is not used by this API)."""
    text = headers.get("retry-after", "")
    return float(text) if text.isdecimal() else None


def _problem(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", parsed) if isinstance(parsed, dict) else {}


def _fields(errors: Any) -> tuple[FieldProblem, ...]:  # parsed JSON
    if not isinstance(errors, list):
        return ()
    items = [cast("dict[str, Any]", item) for item in cast("list[Any]", errors) if isinstance(item, dict)]
    return tuple(FieldProblem(path=str(item.get("path", "")), message=str(item.get("message", ""))) for item in items)
