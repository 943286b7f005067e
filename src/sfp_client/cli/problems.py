"""Every error as one sentence, an exit status, and what `--json` tells of it."""

import os
import sys
from typing import Any

from sfp_client.cli import output
from sfp_client.errors import ApiError, ClientError, NotAllowed, NotFound, NotSignedIn, TimedOut


def explained(error: Exception) -> tuple[str, int, dict[str, Any]]:
    """(sentence, exit status, detail). With SFP_DEBUG=1 the traceback of a bug is shown too."""
    match error:
        case ApiError():
            return _of_server(error)
        case TimedOut():
            return str(error), output.TIMED_OUT, {"code": "timed_out"}
        case ClientError():
            return str(error), output.FAILED, {"code": type(error).__name__.lower()}
        case OSError():
            return _of_system(error), output.FAILED, {"code": "system"}
        case _:
            if os.environ.get("SFP_DEBUG") == "1":
                sys.excepthook(type(error), error, error.__traceback__)
            said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            return f"this is a bug in sfp-server ({said}); SFP_DEBUG=1 shows where", output.FAILED, {"code": "bug"}


def _of_server(error: ApiError) -> tuple[str, int, dict[str, Any]]:
    """What the server said, and what to do next."""
    detail = {
        "code": error.code,
        "status": error.status,
        "requestId": error.request_id,
        "errors": [{"path": item.path, "message": item.message} for item in error.errors],
    }
    said = [f"{item.path}: {item.message}" for item in error.errors]
    lines = [line for line in said if line != error.detail]
    match error:
        case NotSignedIn():
            return f"not signed in ({error.detail}): {_sign_in(error)}", output.NOT_SIGNED_IN, detail
        case NotAllowed():
            return f"not allowed: {error.detail}", output.NOT_SIGNED_IN, detail
        case NotFound():
            return error.detail, output.NOT_FOUND, detail
        case _:
            said = "\n".join([error.detail, *lines])
            if error.status in {429, 503} and error.retry_after:
                said += f"; try again in {error.retry_after:g} s"
            if error.status >= 500 and error.request_id:
                said += f" (request {error.request_id})"
            return said, output.FAILED, detail


def _sign_in(error: ApiError) -> str:
    if error.code in {"token_expired", "token_revoked", "token_invalid"}:
        return "sign in with sfp-server auth login, or use another application token"
    return "run sfp-server auth login, or set SFP_SERVER_TOKEN"


def _of_system(error: OSError) -> str:
    name = f"{error.filename}: " if error.filename else ""
    return f"{name}{error.strerror or error}"
