"""The listener of `auth login --provider`, spoken to as a browser does."""

from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from sfp_client.errors import Refused, TimedOut
from sfp_client.loopback import Loopback


@pytest.fixture
def loopback():
    with Loopback("https://sfp.example/sfp/api", "corp", port=0) as listening:
        yield listening


def asked(loopback):
    parts = urlsplit(loopback.url)
    assert f"{parts.scheme}://{parts.netloc}{parts.path}" == "https://sfp.example/sfp/api/auth/authorize"
    return {name: values[0] for name, values in parse_qs(parts.query).items()}


def test_the_code_of_its_own_sign_in_ends_it(loopback):
    sent = asked(loopback)
    assert (sent["provider"], sent["code_challenge_method"]) == ("corp", "S256")
    answer = httpx.get(sent["redirect_to"], params={"code": "c", "state": sent["state"]})
    assert answer.status_code == 200
    assert "signed in" in answer.text
    code, verifier = loopback.wait(1)
    assert code == "c"
    assert verifier not in loopback.url


def test_what_names_another_state_is_not_taken(loopback):
    sent = asked(loopback)
    for wrong in ({"code": "c"}, {"code": "c", "state": "x"}):
        assert httpx.get(sent["redirect_to"], params=wrong).status_code == 400
    assert httpx.get(sent["redirect_to"].replace("/callback", "/favicon.ico")).status_code == 404
    with pytest.raises(TimedOut):
        loopback.wait(0.01)


def test_a_refusal_says_why_and_is_no_markup(loopback):
    sent = asked(loopback)
    why = {"error": "access_denied", "error_description": "<b>no", "state": sent["state"]}
    assert "<b>" not in httpx.get(sent["redirect_to"], params=why).text
    with pytest.raises(Refused, match="<b>no"):
        loopback.wait(1)


def test_a_port_that_is_taken_is_not_waited_for(loopback):
    port = urlsplit(loopback.redirect_uri).port
    with Loopback("https://sfp.example/sfp/api", None, port=port) as second:
        assert urlsplit(second.redirect_uri).port != port
        assert "provider=" not in second.url
