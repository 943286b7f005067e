"""The SDK over real HTTP: retries, sign-in, errors, files."""

import base64
import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from client_double import Answer, Double, free_port, problem, serving
from sfp_client import ApiError, Client, NotAllowed, NotFound, NotSignedIn, Unreachable
from sfp_client.artifacts import inside
from sfp_client.cli.keep import Account, Kept, SignIns
from sfp_client.errors import FieldProblem, Refused
from sfp_client.renewal import EXPIRY_BUFFER, Memory, SignIn, usable_until
from sfp_client.transport import Transport, normal_url

STATUS = {"operationId": "t-1", "status": "active"}


@pytest.fixture
def double() -> Iterator[Double]:
    with serving(Double()) as served:
        yield served


@pytest.fixture
def client(double) -> Iterator[Client]:
    with Client(double.url, "token-1", team="acme") as made:
        yield made


def jwt(number, *, life=3600, left=3600):
    """A token as the server makes them, its signature left out: the client does not look at it."""
    now = time.time()
    claims = {"sub": f"user-{number}", "iat": now - life + left, "exp": now + left}
    text = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"header.{text}.signature"


def pair(number, **life):
    return {"access_token": jwt(number, **life), "refresh_token": f"refresh-{number}", "expires_in": 3600}


def test_every_request_says_who_and_for_which_team(client, double):
    double.routes["GET /tasks/t-1/status"] = Answer(body=STATUS)
    assert client.tasks.status("t-1") == STATUS
    sent = double.requests[0].headers
    assert (sent["authorization"], sent["x-sfp-team"]) == ("Bearer token-1", "acme")


def test_a_submit_is_tried_again_with_the_same_key_and_body_after_the_pause_that_the_server_names(double):
    double.routes["POST /tasks"] = [
        problem(503, "unavailable", retry_after=2),
        problem(429, "too_many_requests", retry_after=3),
        Answer(201, {"operationId": "t-1"}),
    ]
    pauses = []
    transport = Transport(double.url, sleep=pauses.append)
    with Client(double.url, "t") as client:
        client.tasks._transport = transport
        assert client.tasks.submit("command", {"argv": ["true"]})["operationId"] == "t-1"
    transport.close()
    assert pauses == [2, 3]
    assert len({(request.headers["idempotency-key"], request.body) for request in double.requests}) == 1


def test_two_submits_have_two_keys(client, double):
    double.routes["POST /tasks"] = Answer(201, {"operationId": "t-1"})
    client.tasks.submit("command", {})
    client.tasks.submit("command", {})
    assert len({request.headers["idempotency-key"] for request in double.requests}) == 2


def test_a_sign_in_is_sent_once_whatever_the_answer(client, double):
    double.routes["POST /auth/admin/login"] = problem(503, "unavailable")
    with pytest.raises(ApiError) as error:
        client.auth.login("me", "secret")
    assert (error.value.status, error.value.retry_after, len(double.requests)) == (503, 1, 1)


def test_patience_has_an_end(double):
    double.routes["GET /ping"] = problem(503, "unavailable", retry_after=9)
    transport = Transport(double.url, patience=5, sleep=pytest.fail)
    with pytest.raises(ApiError, match="no"):
        transport.json("GET", "/ping")
    transport.close()


def test_a_connection_that_breaks_before_the_answer_is_tried_again():
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}"
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            for reply in (b"", b"HTTP/1.1 200 OK\r\ncontent-le", answer):
                connection, _ = server.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        pauses = []
        transport = Transport(f"http://127.0.0.1:{server.getsockname()[1]}", sleep=pauses.append)
        assert transport.json("GET", "/ping") == {}
        transport.close()
        thread.join()
    assert len(pauses) == 2


def test_a_refused_connection_is_told_at_once():
    with Client(f"http://127.0.0.1:{free_port()}", "t") as client:
        began = time.monotonic()
        with pytest.raises(
            Unreachable, match=r"127\.0\.0\.1:\d+ cannot be reached: connection refused; is it running\?"
        ):
            client.tasks.list()
        assert time.monotonic() - began < 2


def test_an_answer_that_is_not_json_is_not_taken_for_one(client, double):
    double.routes["GET /tasks"] = Answer(200, b"<html>", {"content-type": "text/html"})
    with pytest.raises(Unreachable, match="is it an sfp server"):
        client.tasks.list()


@pytest.mark.parametrize(
    ("status", "kind"), [(400, ApiError), (401, NotSignedIn), (403, NotAllowed), (404, NotFound), (409, ApiError)]
)
def test_a_problem_becomes_the_error_of_its_status(client, double, status, kind):
    wrong = [{"path": "data.argv[0]", "message": "empty"}]
    double.routes["GET /tasks/x"] = problem(status, "some_code", "some detail", errors=wrong)
    with pytest.raises(ApiError) as caught:
        client.tasks.get("x")
    error = caught.value
    assert type(error) is kind
    assert (error.status, error.code, error.detail, error.request_id) == (status, "some_code", "some detail", "r-1")
    assert error.errors == (FieldProblem(path="data.argv[0]", message="empty"),)


@pytest.mark.parametrize("body", [b"", b"<html>502</html>", b"[]", b'"x"', b'{"errors": [1, "x"], "detail": null}'])
def test_an_error_of_a_proxy_in_between_is_an_error_too(client, double, body):
    double.routes["GET /tasks/x"] = Answer(502, body)
    with pytest.raises(ApiError, match="the server answered 502"):
        client.tasks.get("x")


@pytest.mark.parametrize("url", ["ftp://x", "sfp.example", "https://me:secret@sfp.example", "https://"])
def test_what_is_no_address_of_a_server_is_refused_without_showing_it(url):
    with pytest.raises(Refused) as error:
        Client(url)
    assert "secret" not in str(error.value)


def test_addresses_are_compared_in_one_form():
    assert normal_url(" HTTPS://SFP.Example:8443/sfp/api/ ") == "https://sfp.example:8443"
    assert normal_url("https://example.org/tools/") == "https://example.org/tools"


def test_a_token_is_not_sent_in_the_clear_to_another_machine():
    with Client("http://192.0.2.1", "sfp_at_secret") as client, pytest.raises(Refused, match="not encrypted") as error:
        client.tasks.list()
    assert "sfp_at_secret" not in str(error.value)


# ------------------------------------------------------------------------------------------------- sign-in


def rotating(double):
    """Let the double answer as the server does: each refresh token works once, its re-use ends everything."""
    state = {"number": 1, "valid": "refresh-1", "reused": False}

    def refresh(request):
        if request.json["refresh_token"] != state["valid"]:
            state["reused"] = True
            return problem(401, "token_revoked")
        state["number"] += 1
        state["valid"] = f"refresh-{state['number']}"
        return Answer(body=pair(state["number"]))

    double.routes["POST /auth/token"] = refresh
    return state


def test_a_token_that_is_about_to_end_is_renewed_before_it_is_sent(client, double):
    rotating(double)
    double.routes["GET /tasks"] = Answer(body={"items": [], "nextCursor": None})
    kept = Memory(pair(1, left=EXPIRY_BUFFER + 10))
    client.transport.source = SignIn(kept, client.auth.exchange)
    client.tasks.list()
    assert [request.path for request in double.requests] == ["/auth/token", "/tasks"]
    assert double.requests[1].token == kept.load()["access_token"]


def test_a_refused_token_is_renewed_once(client, double):
    state = rotating(double)
    double.routes["GET /tasks"] = lambda request: (
        problem(401, "token_expired") if state["number"] == 1 else Answer(body={"items": []})
    )
    client.transport.source = SignIn(Memory(pair(1)), client.auth.exchange)
    assert client.tasks.list() == {"items": []}
    assert [request.path for request in double.requests] == ["/tasks", "/auth/token", "/tasks"]


def test_a_server_that_refuses_every_token_is_asked_twice_and_no_more(client, double):
    rotating(double)
    double.routes["GET /tasks"] = problem(401, "unauthenticated")
    client.transport.source = SignIn(Memory(pair(1)), client.auth.exchange)
    with pytest.raises(NotSignedIn):
        client.tasks.list()
    assert [request.path for request in double.requests] == ["/tasks", "/auth/token", "/tasks"]


def test_a_fixed_token_is_never_renewed(client, double):
    double.routes["GET /tasks"] = problem(401, "token_expired", "the token has expired")
    with pytest.raises(NotSignedIn, match="the token has expired"):
        client.tasks.list()
    assert len(double.requests) == 1


def test_a_token_of_short_life_is_used_although_the_buffer_is_longer():
    short = jwt(1, life=60, left=50)
    assert usable_until(short) - time.time() > 30
    assert usable_until("sfp_at_12345678_random") == float("inf")


def test_many_processes_worth_of_clients_use_a_refresh_token_once(double, tmp_path):
    state = rotating(double)
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    account = SignIns(environ).keep(Account(url=double.url, email="me@x", kept_in=""), pair(1, left=EXPIRY_BUFFER))
    gate = threading.Barrier(6)
    failures = []

    def act():
        with Client(double.url) as client:
            client.transport.source = SignIn(Kept(SignIns(environ), account), client.auth.exchange)
            gate.wait()
            try:
                client.transport.token()
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=act) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (failures, state["number"], state["reused"]) == ([], 2, False)


# --------------------------------------------------------------------------------------------------- files


def test_an_upload_is_streamed_whole_under_its_name(client, double, tmp_path):
    content = bytes(range(256)) * 4096
    (tmp_path / "in.tar").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    double.routes["POST /artifacts"] = Answer(201, {"id": "a-1", "size": len(content), "sha256": digest})
    assert client.artifacts.upload(tmp_path / "in.tar")["id"] == "a-1"
    sent = double.requests[0]
    assert (sent.body, sent.query, sent.headers["content-length"]) == (content, "name=in.tar", str(len(content)))


def test_a_damaged_upload_is_told(client, double, tmp_path):
    (tmp_path / "in").write_bytes(b"x")
    double.routes["POST /artifacts"] = Answer(201, {"id": "a-1", "size": 1, "sha256": "0" * 64})
    with pytest.raises(Refused, match="damaged"):
        client.artifacts.upload(tmp_path / "in")


def test_a_download_is_written_whole_or_not_at_all(client, double, tmp_path):
    double.routes["GET /tasks/t-1/artifacts/sub/a b.txt"] = Answer(200, b"content")
    good = hashlib.sha256(b"content").hexdigest()
    target = tmp_path / "new" / "a.txt"
    assert client.artifacts.download("t-1", "sub/a b.txt", target, sha256=good).read_bytes() == b"content"
    with pytest.raises(Refused, match="damaged"):
        client.artifacts.download("t-1", "sub/a b.txt", tmp_path / "bad.txt", sha256="0" * 64)
    with pytest.raises(NotFound):
        client.artifacts.download("t-1", "none", tmp_path / "bad.txt")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.txt", "new"]


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", ".", "", "link/x"])
def test_a_kept_file_is_never_written_outside_the_directory(tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path)
    with pytest.raises(Refused, match="leads out"):
        inside(tmp_path / "out", name)


def test_lists_are_read_to_their_last_page(client, double):
    double.routes["GET /secrets"] = lambda request: Answer(
        body={"items": [{"name": "b"}], "nextCursor": None}
        if "cursor=c1" in request.query
        else {"items": [{"name": "a"}], "nextCursor": "c1"}
    )
    assert [item["name"] for item in client.secrets.list()] == ["a", "b"]


def test_an_id_cannot_name_another_resource(client, double):
    with pytest.raises(NotFound):
        client.tasks.get("../secrets?x=")
    assert double.requests[0].path in {"/tasks/../secrets?x=", "/tasks/..%2Fsecrets%3Fx="}


def test_a_device_is_polled_until_its_user_has_decided(double):
    double.routes["POST /auth/device/code"] = Answer(body={"device_code": "d", "user_code": "BCDF-GHJK", "interval": 5})
    double.routes["POST /auth/device/token"] = [
        problem(400, "authorization_pending"),
        problem(400, "slow_down"),
        Answer(body=pair(1)),
    ]
    with Client(double.url) as client:
        assert client.auth.begin_device()["user_code"] == "BCDF-GHJK"
        assert client.auth.poll_device("d") is None
        with pytest.raises(ApiError) as slowed:
            client.auth.poll_device("d")
        assert slowed.value.code == "slow_down"
        assert client.auth.poll_device("d")["refresh_token"] == "refresh-1"
    assert "authorization" not in double.requests[-1].headers
