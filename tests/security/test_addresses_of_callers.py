"""Whose word counts about where a request comes from."""

import pytest

from sfp_server.web.forwarded import Forwarded

KEY = b"the edge's secret"


async def seen(edge_key, headers, *, client=("127.0.0.1", 5), kind="http"):
    """The address and the headers that the application sees."""
    got = {}

    async def app(scope, _receive, _send):
        got.update(scope)

    scope = {"type": kind, "client": client, "headers": headers, "scheme": "http"}
    await Forwarded(app=app, edge_key=edge_key)(scope, None, None)
    return got["client"][0] if got["client"] else None, dict(got["headers"]), got["scheme"]


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_the_edge_is_believed_and_its_secret_goes_no_further(kind):
    headers = [(b"x-sfp-edge", KEY), (b"x-forwarded-for", b"203.0.113.5"), (b"x-forwarded-proto", b"https")]
    address, left, scheme = await seen(KEY, headers, kind=kind)
    assert (address, scheme) == ("203.0.113.5", "https" if kind == "http" else "wss")
    assert b"x-sfp-edge" not in left


@pytest.mark.parametrize("proof", [[], [(b"x-sfp-edge", b"")], [(b"x-sfp-edge", b"a guess")]], ids=str)
async def test_nobody_else_is_believed_not_even_on_this_machine(proof):
    forged = [(b"x-forwarded-for", b"203.0.113.5"), (b"forwarded", b"for=203.0.113.5"), (b"x-real-ip", b"203.0.113.5")]
    assert (await seen(KEY, proof + forged))[0] == "127.0.0.1"


async def test_a_proxy_in_front_is_believed_from_this_machine_only_and_for_its_own_entry():
    headers = [(b"x-forwarded-for", b"198.51.100.1, 203.0.113.5")]
    assert (await seen(None, headers))[0] == "203.0.113.5"
    assert (await seen(None, headers, client=("192.0.2.9", 1)))[0] == "192.0.2.9"


@pytest.mark.parametrize("value", [b"", b"unknown", b"203.0.113.5:80", b"_hidden", b"\xff", b"203.0.113.5 "], ids=str)
async def test_what_is_no_address_changes_nothing(value):
    address, _, _ = await seen(KEY, [(b"x-sfp-edge", KEY), (b"x-forwarded-for", value)])
    assert address in {"127.0.0.1", "203.0.113.5"}
    assert (await seen(KEY, [(b"x-sfp-edge", KEY), (b"x-forwarded-for", value)], client=None))[0] in {
        None,
        "203.0.113.5",
    }
