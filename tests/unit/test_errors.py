"""Errors, enumerated: codes are unique and documented, and each becomes a whole problem."""

from collections import Counter
from pathlib import Path

import msgspec
import pytest

from sfp_server import reference
from sfp_server.errors import FieldError, OAuthError
from sfp_server.web.problems import describe, extra_headers

KINDS = reference.kinds()


def test_codes_are_unique_and_snake_case():
    assert [code for code, count in Counter(kind.code for kind in KINDS).items() if count > 1] == []
    assert all(kind.code.replace("_", "").isalpha() and kind.code.islower() for kind in KINDS)


def test_every_code_is_documented():
    assert Path("docs/errors.md").read_text() == reference.markdown()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.code)
def test_each_becomes_a_problem(kind):
    error = kind("because", errors=(FieldError(path="data.x[0]", message="no"),), retry_after=7)
    problem = msgspec.to_builtins(describe(error, instance="/x", request_id="r", known=True))
    assert problem == {
        "type": f"/problems/{kind.code}",
        "title": kind.title,
        "status": kind.status,
        "detail": "because",
        "instance": "/x",
        "code": kind.code,
        "requestId": "r",
        "errors": [{"path": "data.x[0]", "message": "no"}],
        "statusCode": kind.status,
        "message": "because",
    } | ({"error": kind.code} if issubclass(kind, OAuthError) else {})
    stranger = describe(error, instance="/x", request_id="r", known=False)
    assert "because" not in (stranger.detail, stranger.message)
    headers = extra_headers(error)
    assert headers["Retry-After"] == "7"
    assert ("WWW-Authenticate" in headers) == (kind.status == 401)
    assert "Retry-After" in extra_headers(kind("x")) or kind.status not in {429, 503}
