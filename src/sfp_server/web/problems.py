"""The one place where errors become HTTP: RFC 9457 problem details, one shape for every error.

`code` is stable; docs/errors.md lists them all. A caller without an actor gets the general text of its kind
of error; a bug shows nothing to anybody, its traceback goes to the log under the same request id.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException

from sfp_server.actor import Actor
from sfp_server.db.database import Violation
from sfp_server.errors import (
    Conflict,
    FieldError,
    Forbidden,
    Malformed,
    MethodNotAllowed,
    NotFound,
    OAuthError,
    SfpError,
    TooLarge,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
    VersionConflict,
)
from sfp_server.web.asgi import Scope

MEDIA_TYPE = "application/problem+json"

_log = structlog.get_logger("web")

#: what somebody is told whom we do not know
_GENERAL = {
    400: "the request is malformed",
    401: "sign in or send a valid token",
    403: "not allowed",
    404: "there is no such thing",
    409: "this clashes with the present state",
}

_BY_STATUS: dict[int, type[SfpError]] = {
    kind.status: kind
    for kind in (
        Malformed,
        Unauthenticated,
        Forbidden,
        NotFound,
        MethodNotAllowed,
        Conflict,
        TooLarge,
        UnsupportedMediaType,
        TooManyRequests,
        Unavailable,
    )
}


class Bug(SfpError):
    """Anything unexpected: its traceback is in the log."""

    code = "internal_error"
    status = 500
    title = "Internal error"


class FieldProblem(msgspec.Struct, kw_only=True):
    path: str
    message: str


class Problem(msgspec.Struct, rename="camel", kw_only=True, omit_defaults=True):
    """The body of every error."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    errors: list[FieldProblem]
    #: of what the request thought to be at another version
    current_version: int | None = None
    #: for OAuth clients (RFC 6749, 5.2), where the error is one that they know
    error: str = ""
    #: for clients of the original product
    status_code: int
    message: str


def describe(error: SfpError, *, instance: str, request_id: str, known: bool) -> Problem:
    """The body for `error`; `known`: whether there is an actor who may read particulars."""
    detail = str(error) if known else _GENERAL.get(error.status, error.title)
    return Problem(
        type=f"/problems/{error.code}",
        title=error.title,
        status=error.status,
        detail=detail,
        instance=instance,
        code=error.code,
        request_id=request_id,
        errors=[FieldProblem(path=wrong.path, message=wrong.message) for wrong in error.errors],
        current_version=error.current_version if isinstance(error, VersionConflict) else None,
        error=error.code if isinstance(error, OAuthError) else "",
        status_code=error.status,
        message=detail,
    )


def extra_headers(error: SfpError) -> dict[str, str]:
    """Header fields that the status asks for."""
    headers: dict[str, str] = {"Cache-Control": "no-store"}
    if error.status == 401:
        # RFC 6750: without a token nothing is said about it
        headers["WWW-Authenticate"] = "Bearer" if error.code == "unauthenticated" else 'Bearer error="invalid_token"'
    if error.retry_after is not None or error.status in {429, 503}:
        headers["Retry-After"] = str(max(1, error.retry_after or 1))
    return headers


def respond(request: Request[Any, Any, Any], error: SfpError, more: Mapping[str, str] | None = None) -> Response[bytes]:
    scope = cast("Scope", request.scope)
    known = isinstance(scope.get("user"), Actor)
    body = describe(error, instance=request.url.path, request_id=request_id(scope), known=known)
    headers = extra_headers(error) | dict(more or {})
    return Response(msgspec.json.encode(body), status_code=error.status, media_type=MEDIA_TYPE, headers=headers)


def request_id(scope: Scope) -> str:
    """The id that `limits.py` gave this request."""
    return str(scope.get("state", {}).get("request_id", ""))


def _expected(request: Request[Any, Any, Any], error: SfpError) -> Response[bytes]:
    return respond(request, error)


def of_framework(request: Request[Any, Any, Any], error: HTTPException) -> SfpError:
    """Litestar's own errors (routing, parameters, sizes) as ours."""
    if isinstance(error, ValidationException):
        return _invalid(error)
    kind = _BY_STATUS.get(error.status_code)
    return logged_bug(request, error) if kind is None else kind(_GENERAL.get(kind.status, kind.title.lower()))


def logged_bug(request: Request[Any, Any, Any], error: Exception) -> Bug:
    """What is said of anything unexpected, once it is in the log."""
    _log.error("unexpected error", method=request.method, path=request.url.path, exc_info=error)
    return Bug("an unexpected error; the log has it under this request id")


def of_database(error: Violation) -> Conflict:
    """A constraint that no use case translated still is a conflict; which one is for the log only."""
    _log.warning("untranslated constraint", constraint=error.constraint, exc_info=error)
    return Conflict("this clashes with the present state")


def _of_framework(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    allowed = {name: value for name, value in (error.headers or {}).items() if name.lower() == "allow"}
    return respond(request, of_framework(request, error), allowed)


def _invalid(error: ValidationException) -> Malformed:
    """Parameters and missing bodies that Litestar refused; `extra` holds one dictionary per place."""
    extra = cast("list[dict[str, Any]]", error.extra or [])  # so says Litestar's signature model
    places = tuple(
        FieldError(
            path=_wire_name(str(item.get("key", ""))),
            message=str(item.get("message", "")).split(" - at ", maxsplit=1)[0],
        )
        for item in extra
    )
    places = tuple(
        FieldError(path="", message="a JSON body is required") if place.path == "data" else place for place in places
    )
    detail = "; ".join(f"{place.path}: {place.message}" if place.path else place.message for place in places)
    return Malformed(detail or "the request is malformed", errors=places)


def _wire_name(name: str) -> str:
    """A parameter's name as the contract has it: Litestar tells the one in the code."""
    first, *others = name.split("_")
    return first + "".join(other.capitalize() for other in others)


def _of_database(request: Request[Any, Any, Any], error: Violation) -> Response[bytes]:
    return respond(request, of_database(error))


def _bug(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    return respond(request, logged_bug(request, error))


HANDLERS: Mapping[int | type[Exception], Callable[[Request[Any, Any, Any], Any], Response[bytes]]] = {
    SfpError: _expected,
    HTTPException: _of_framework,
    Violation: _of_database,
    Exception: _bug,
}
