"""Headers of every answer, names that are answered to, and pages of other origins."""

import httpx
import pytest

import web_api
from security.test_routes import declared, example
from sfp_server.settings import Settings, SettingsError
from sfp_server.web.headers import ALWAYS
from sfp_server.web.protocol import _MALFORMED, _TOO_LARGE
from web_api import API

OWN, FRIEND, STRANGER = "http://localhost", "https://console.example", "https://evil.example"
TELLTALE = {"server", "via", "x-powered-by"}


@pytest.fixture
async def friendly(clone, admin, valkey_url, tmp_path):
    """An instance that lets the pages of one other origin in."""
    settings = web_api.settings_for(tmp_path, clone, valkey_url, cors_allow_origins=FRIEND, domain="sfp.example")
    async with web_api.running(settings, admin) as running:
        yield running


def secured(answer: httpx.Response, *, private: bool) -> list[str]:
    """What is missing in, or too much about, the header of an answer."""
    wrong = [name.decode() for name, value in ALWAYS if answer.headers.get_list(name.decode()) != [value.decode()]]
    policy = answer.headers.get("content-security-policy", "")
    if "default-src 'none'" not in policy or "frame-ancestors 'none'" not in policy:
        wrong.append("content-security-policy")
    if (private or not answer.headers.get("cache-control", "").startswith("public")) and answer.headers.get_list(
        "cache-control"
    ) != ["no-store"]:
        wrong.append("cache-control")
    return wrong + [name for name in TELLTALE if name in answer.headers]


async def test_every_route_answers_with_every_security_header(api):
    owner = await api.owner()
    wrong = {}
    for token in (None, owner):
        async with api.client(token) as client:
            for method, path, _ in declared(api.app):
                if method == "WEBSOCKET" or path.endswith("/auth/logout"):
                    continue
                query = "?wait=0" if "events" in path else ""
                headers = {"Accept": "application/json"}
                answer = await client.request(method, example(path) + query, headers=headers, content=b"no json")
                if found := secured(answer, private=token is not None):
                    wrong[method, path, answer.status_code] = found
    assert wrong == {}


async def test_refusals_carry_them_too(api):
    async with api.client() as client:
        refused = [
            await client.get("/nowhere"),
            await client.request("TRACE", f"{API}/tasks"),
            await client.put(f"{API}/tasks"),
            await client.post(f"{API}/auth/admin/login", content=b"x" * 2_000_000),
            await client.post(f"{API}/auth/admin/login", content=b"x"),
            await client.get("/" + "a" * 5000),
            await client.get(f"{API}/ping", headers={"Host": "evil.example"}),
            await client.options(f"{API}/tasks"),
        ]
    assert [answer.status_code for answer in refused] == [404, 405, 405, 413, 415, 400, 421, 401]
    assert [secured(answer, private=False) for answer in refused] == [[]] * len(refused)


@pytest.mark.parametrize("answer", [_MALFORMED, _TOO_LARGE], ids=["400", "431"])
def test_what_is_no_http_is_answered_with_them(answer):
    head = answer.decode().lower()
    assert all(f"{name.decode()}: {value.decode().lower()}\r\n" in head for name, value in ALWAYS)
    assert "content-security-policy: default-src 'none'" in head
    assert head.endswith("\r\n\r\n")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8443", 200),
        ("127.0.0.1:3029", 200),
        ("[::1]:3029", 200),
        ("sfp.example", 200),
        ("sfp.example.:443", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("evil.example:localhost", 421),
        ("10.0.0.7", 421),
        ("sfp.example@evil.example", 421),
    ],
)
async def test_only_its_own_names_are_answered_to(friendly, host, status):
    async with friendly.client() as client:
        answer = await client.get(f"{API}/ping", headers={"Host": host})
        balancer = await client.get("/health", headers={"Host": host})
    assert answer.status_code == status
    assert balancer.status_code in {200, 503}


async def test_no_origin_is_allowed_unless_it_is_named(api):
    async with api.client() as client:
        ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        answers = [
            await client.options(f"{API}/tasks", headers={"Origin": FRIEND, **ask}),
            await client.get(f"{API}/ping", headers={"Origin": FRIEND}),
        ]
    assert [name for answer in answers for name in answer.headers if name.startswith("access-control")] == []


async def test_a_named_origin_is_let_in_exactly_and_never_with_cookies(friendly):
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    seen = {}
    async with friendly.client() as client:
        for origin in (FRIEND, STRANGER, f"{FRIEND}.evil.example", "http://console.example", f"{FRIEND}:444", "null"):
            preflight = await client.options(f"{API}/tasks", headers={"Origin": origin, **ask})
            answer = await client.get(f"{API}/users/me", headers={"Origin": origin})
            assert preflight.headers["vary"] == answer.headers["vary"] == "Origin"
            assert "access-control-allow-credentials" not in {*preflight.headers, *answer.headers}
            seen[origin] = {found.headers.get("access-control-allow-origin") for found in (preflight, answer)}
            assert ("access-control-allow-methods" in preflight.headers) == (origin == FRIEND)
    assert seen.pop(FRIEND) == {FRIEND}
    assert set().union(*seen.values()) == {None}


@pytest.mark.parametrize(
    "text", ["*", "https://*.example", "console.example", "https://a.example/", "null", "HTTPS://A.B"]
)
def test_patterns_and_half_origins_are_refused(tmp_path, text):
    with pytest.raises(SettingsError, match="exact origins"):
        Settings(directory=tmp_path, cors_allow_origins=f"{FRIEND},{text}")


@pytest.mark.parametrize(
    ("origin", "status"),
    [(None, 401), (OWN, 401), (FRIEND, 401), ("https://sfp.example", 401), (STRANGER, 403), ("null", 403),
     ("http://localhost:3000", 403), ("file://", 403)],
)  # fmt: skip
async def test_a_foreign_page_changes_nothing_and_signs_nobody_in(friendly, origin, status):
    headers = {"Origin": origin} if origin else {}
    async with friendly.client() as client:
        login = {"email": "ann@acme.example", "password": "wrong"}
        answers = [
            await client.post(f"{API}/auth/admin/login", json=login, headers=headers),
            await client.post(f"{API}/tasks", json={}, headers=headers),
        ]
        assert (await client.get(f"{API}/ping", headers=headers)).status_code == 200
    assert [answer.status_code for answer in answers] == [status, status]
    assert status != 403 or {answer.json()["code"] for answer in answers} == {"foreign_origin"}


async def opened(app, *, path=f"{API}/realtime", **headers) -> tuple[str, int, dict[str, str]]:
    """(first message of the server, its status, its header) for a browser's try to open a WebSocket."""
    said = []
    scope = {
        "type": "websocket", "path": path, "raw_path": path.encode(), "query_string": b"", "scheme": "ws",
        "headers": [(name.encode(), value.encode()) for name, value in {"host": "localhost", **headers}.items()],
        "client": ("192.0.2.1", 1234), "server": ("127.0.0.1", 80), "subprotocols": [], "root_path": "",
        "asgi": {"version": "3.0"}, "http_version": "1.1", "extensions": {"websocket.http.response": {}},
    }  # fmt: skip
    heard = iter([{"type": "websocket.connect"}])

    async def receive():
        return next(heard, {"type": "websocket.disconnect", "code": 1006})

    async def send(message):
        said.append(message)

    await app(scope, receive, send)
    fields = {name.decode(): value.decode() for name, value in said[0].get("headers", [])}
    return said[0]["type"], said[0].get("status", 0), fields


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 0),
        ({"origin": OWN}, 0),
        ({"origin": FRIEND}, 0),
        ({"origin": STRANGER}, 403),
        ({"origin": STRANGER, "cookie": "sfp_session=x"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "evil.example", "origin": "http://evil.example"}, 421),
    ],
)
async def test_a_foreign_page_opens_no_websocket(friendly, headers, status):
    kind, answered, fields = await opened(friendly.app, **headers)
    assert (kind, answered) == ("websocket.http.response.start" if status else "websocket.accept", status)
    assert fields["x-content-type-options"] == "nosniff"
    assert fields["cache-control"] == "no-store"
    assert "server" not in fields


async def test_a_websocket_that_is_not_there_is_answered_like_any_other_path(api):
    kind, status, fields = await opened(api.app, path="/nowhere")
    assert (kind, status) == ("websocket.http.response.start", 404)
    assert fields["content-type"] == "application/problem+json"
    assert "default-src 'none'" in fields["content-security-policy"]


@pytest.mark.parametrize("origin", ["http://[", "https://[::1", "http://a]b"])
async def test_an_origin_that_is_no_url_is_foreign(api, origin):
    async with api.client() as client:
        answer = await client.post(
            f"{API}/auth/admin/login", json={"email": "a@b.c", "password": "x"}, headers={"Origin": origin}
        )
    assert (answer.status_code, answer.json()["code"]) == (403, "foreign_origin")
