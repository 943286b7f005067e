"""Concurrency of versioned things: `ETag: "<version>"`, `If-Match`, `If-None-Match: *`, `version` in the body.

expected = expectation(request, body.version)
expected.check(row["version"] if row else 0)     # in the transaction that changes it, with the row locked
return versioned(answer, row["version"])
"""

import re
from dataclasses import dataclass
from typing import Any

from litestar import Response

from sfp_server.errors import FieldError, Malformed, VersionConflict
from sfp_server.web.wire import ApiRequest

_VERSIONS = re.compile(r'\s*(?:W/)?"(\d{1,18})"\s*')


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What the caller believes about the version of what it changes."""

    #: of If-Match; None: it says nothing; empty: any version, but there must be one
    match: frozenset[int] | None = None
    #: If-None-Match: *
    absent: bool = False
    #: `version` in the body
    version: int | None = None

    def check(self, current: int) -> None:
        """`current` is 0 when there is none. Raises VersionConflict: 412 by headers, 409 by the body."""
        wrong = self.absent and current != 0
        if self.match is not None:
            wrong = wrong or current == 0 or (bool(self.match) and current not in self.match)
        said = f"it is at version {current}" if current else "there is none"
        if wrong:
            raise VersionConflict(f"{said}: read it again", current_version=current, by_header=True)
        if self.version is not None and self.version != current:
            raise VersionConflict(f"{said}, not {self.version}: read it again", current_version=current)


def expectation(request: ApiRequest, version: int | None = None) -> Expectation:
    """What the headers and the body's `version` say. Raises Malformed."""
    match, none = request.headers.get("if-match"), request.headers.get("if-none-match")
    if none is not None and none.strip() != "*":
        raise _malformed("If-None-Match", "only * is understood")
    versions = None if match is None else frozenset[int]() if match.strip() == "*" else _versions(match)
    return Expectation(match=versions, absent=none is not None, version=version)


def _versions(text: str) -> frozenset[int]:
    found = [_VERSIONS.fullmatch(part) for part in text.split(",")]
    if not all(found):
        raise _malformed("If-Match", 'must be * or the ETag of a version, as in "3"')
    return frozenset(int(part[1]) for part in found if part)


def _malformed(header: str, message: str) -> Malformed:
    return Malformed(f"{header}: {message}", errors=(FieldError(path=header, message=message),))


def versioned(body: Any, version: int, *, status: int = 200) -> Response[Any]:
    """An answer with its ETag."""
    return Response(body, status_code=status, headers={"ETag": f'"{version}"'})
