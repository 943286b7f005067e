"""The follower over real sockets: each event once and in order, whatever the connection does."""

import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import websockets.exceptions
import websockets.sync.client

from client_double import Answer, Double, problem, serving
from sfp_client import Client, NotAllowed, NotFound, NotSignedIn, TimedOut
from sfp_client.live import Event
from sfp_client.renewal import Memory, SignIn

TASK = "0198f2d0-0000-7000-8000-000000000001"
CHANNEL = f"task:{TASK}"


@pytest.fixture
def double() -> Iterator[Double]:
    with serving(Double()) as served:
        yield served


@pytest.fixture
def client(double) -> Iterator[Client]:
    with Client(double.url, "token-1") as made:
        yield made


def sends(*numbers, then=None, final=None):
    """A connection that subscribes, sends these numbers and then closes with a code (None: stays)."""

    async def serve(peer):
        await peer.accept()
        asked = await peer.subscription()
        serve.asked.append(asked["after"])
        await peer.say(type="subscribed", channel=asked["channel"], seq=99)
        for number in numbers:
            event = "task.completed" if number == final else "task.log"
            await peer.event(asked["channel"], number, event, n=number)
        if then is not None:
            await peer.close(then)
        else:
            await peer.until_the_client_goes()

    serve.asked = []
    return serve


def seqs(client, **options):
    return [event.seq for event in client.tasks.follow(TASK, **options)]


def test_a_task_is_followed_to_its_final_event(client, double):
    double.sockets = [sends(1, 2, 3, final=3)]
    events = list(client.tasks.follow(TASK))
    assert [event.seq for event in events] == [1, 2, 3]
    assert events[2] == Event(channel=CHANNEL, seq=3, event="task.completed", at="2026-01-01T00:00:00Z", data={"n": 3})


def test_a_connection_that_ends_is_resumed_after_the_last_event(client, double):
    double.sockets = [sends(1, 2, then=1011), sends(3, 4, then=4008), sends(then=1001), sends(5, final=5)]
    assert seqs(client) == [1, 2, 3, 4, 5]
    assert [serve.asked for serve in double.sockets] == [[0], [2], [4], [4]]


@pytest.mark.parametrize("code", ["unavailable", "too_many_requests"])
def test_a_subscription_that_cannot_be_had_now_is_asked_for_again(client, double, code):
    async def away(peer):
        await peer.accept()
        asked = await peer.subscription()
        await peer.say(type="error", code=code, message="try again shortly", channel=asked["channel"])
        await peer.until_the_client_goes()

    double.sockets = [away, sends(1, 2, final=2)]
    assert seqs(client, timeout=20) == [1, 2]


def test_a_server_that_dies_in_the_handshake_is_not_one_without_websocket():
    asked: list[bytes] = []

    def die(listener: socket.socket) -> None:
        for _ in range(3):
            connection, _ = listener.accept()
            with connection:
                asked.append(connection.recv(4096).split()[1])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        dying = threading.Thread(target=die, args=(listener,))
        dying.start()
        with Client(f"http://127.0.0.1:{listener.getsockname()[1]}", "token-1") as client:
            following = iter(client.events(CHANNEL, after=0, deadline=time.monotonic() + 3))
            with pytest.raises(TimedOut):
                next(following)
        dying.join()
    assert asked == [b"/sfp/api/realtime"] * 3


def test_a_connection_that_is_cut_while_it_is_asked_for_is_asked_for_again(client, double, monkeypatch):
    connect, cut = websockets.sync.client.connect, []

    def cut_first(*arguments, **options):
        if not cut:
            cut.append(True)
            raise websockets.exceptions.ConnectionClosedError(None, None)
        return connect(*arguments, **options)

    monkeypatch.setattr(websockets.sync.client, "connect", cut_first)
    double.sockets = [sends(1, final=1)]
    assert (seqs(client, timeout=20), cut) == ([1], [True])


def test_what_was_seen_is_not_told_again(client, double):
    double.sockets = [sends(1, 2, then=1006 - 5), sends(1, 2, 2, 3, final=3)]
    assert seqs(client) == [1, 2, 3]


def test_a_hole_is_filled_by_asking_again(client, double):
    double.sockets = [sends(1, 4), sends(2, 3, 4, final=4)]
    assert seqs(client) == [1, 2, 3, 4]
    assert double.sockets[1].asked == [1]


def test_events_of_other_channels_are_not_taken(client, double):
    async def serve(peer):
        await peer.accept()
        await peer.subscription()
        await peer.event("tasks", 1)
        await peer.event(CHANNEL, 1, "task.failed")
        await peer.until_the_client_goes()

    double.sockets = [serve]
    assert seqs(client) == [1]


def test_from_now_on_begins_where_the_server_says(client, double):
    double.sockets = [sends(100, then=1001), sends(101)]
    follower = iter(client.events("tasks"))
    assert [next(follower).seq, next(follower).seq] == [100, 101]
    follower.close()
    assert [serve.asked for serve in double.sockets] == [[None], [100]]


def test_waiting_has_a_limit_and_says_so(client, double):
    double.routes[f"GET /tasks/{TASK}/result"] = problem(409, "not_finished")
    double.routes["GET /events"] = page_of([(1, "task.started")])
    began = time.monotonic()
    with pytest.raises(TimedOut, match=r"has not ended after 0\.3 seconds; it goes on"):
        client.tasks.wait(TASK, timeout=0.3)
    assert 0.25 < time.monotonic() - began < 3


def test_waiting_for_a_finished_task_asks_once(client, double):
    double.routes[f"GET /tasks/{TASK}/result"] = Answer(body={"status": "completed"})
    assert client.tasks.wait(TASK) == {"status": "completed"}
    assert (len(double.requests), double.connections) == (1, 0)


@pytest.mark.parametrize(("code", "kind"), [(4001, NotSignedIn), (4003, NotAllowed)])
def test_a_right_that_ended_ends_the_following(client, double, code, kind):
    double.sockets = [sends(1, then=code)]
    with pytest.raises(kind):
        seqs(client)
    assert double.connections == 1


def test_a_token_that_ran_out_is_renewed_and_the_following_goes_on(client, double):
    double.routes["POST /auth/token"] = Answer(body={"access_token": "new", "refresh_token": "r-2"})
    client.transport.source = SignIn(Memory({"access_token": "old", "refresh_token": "r-1"}), client.auth.exchange)
    seen = []

    async def second(peer):
        seen.append(peer.headers["authorization"])
        await sends(2, final=2)(peer)

    double.sockets = [sends(1, then=4001), second]
    assert seqs(client) == [1, 2]
    assert seen == ["Bearer new"]


@pytest.mark.parametrize(("code", "kind"), [(4001, NotSignedIn), (4003, NotAllowed), (None, NotFound)])
def test_a_channel_that_is_gone_ends_with_the_reason_of_its_close(client, double, code, kind):
    async def serve(peer):
        await peer.accept()
        await peer.subscription()
        await peer.say(type="gone", channel=CHANNEL)
        if code is not None:
            await peer.close(code)
        await peer.until_the_client_goes()

    double.sockets = [serve]
    with pytest.raises(kind):
        seqs(client)
    assert double.connections == 1


def test_a_task_that_does_not_exist_is_not_found(client, double):
    async def serve(peer):
        await peer.accept()
        await peer.subscription()
        await peer.say(type="error", code="not_found", message="there is no such task", channel=CHANNEL)
        await peer.until_the_client_goes()

    double.sockets = [serve]
    with pytest.raises(NotFound, match="there is no such task"):
        seqs(client)


def page_of(log):
    """Answers `GET /events` from a list of (seq, event)."""

    def answer(request):
        query = dict(part.split("=") for part in request.query.split("&"))
        after, limit = int(query["after"]), int(query["limit"])
        found = [item for item in log if item[0] > after][:limit]
        items = [
            {"channel": CHANNEL, "seq": seq, "event": event, "at": "2026-01-01T00:00:00Z", "data": {}}
            for seq, event in found
        ]
        return Answer(body={"items": items, "nextCursor": None})

    return answer


async def no_websocket(peer):
    await peer.refuse(400)


def test_without_websocket_pages_are_read_to_the_end(client, double):
    log = [(number, "task.log") for number in range(1, 500)] + [(500, "task.completed")]
    double.sockets = [no_websocket]
    double.routes["GET /events"] = page_of(log)
    assert seqs(client) == list(range(1, 501))
    assert double.connections == 1
    assert all("wait=20.0" in request.query for request in double.requests)


def test_a_page_that_cannot_be_had_for_now_is_asked_for_again(client, double):
    answer = page_of([(1, "task.completed")])
    double.sockets = [no_websocket]
    double.routes["GET /events"] = [problem(503, "unavailable", retry_after=0), answer]
    assert seqs(client) == [1]


def test_a_websocket_is_tried_again_while_the_server_is_away(client, double):
    async def away(peer):
        await peer.refuse(503)

    double.sockets = [away, away, sends(1, final=1)]
    assert seqs(client) == [1]
    assert double.connections == 3


def test_logs_are_read_page_by_page_in_order(client, double):
    def answer(request):
        query = dict(part.split("=") for part in request.query.split("&"))
        first = int(query["after"]) + 1
        lines = [{"seq": number, "message": str(number)} for number in range(first, 451)][: int(query["limit"])]
        return Answer(200, json.dumps({"entries": lines}).encode())

    double.routes[f"GET /logs/{TASK}"] = answer
    assert [entry["seq"] for entry in client.tasks.logs(TASK)] == list(range(1, 451))
