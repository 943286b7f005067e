"""Live events over WebSocket: each once, in order, only to whom they belong, however the parts fail."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from uuid import UUID, uuid4

import pytest
from websockets.exceptions import ConnectionClosed

from live_api import Api, Client, Door, Writer, relaying, serve_api
from sfp_server.errors import Forbidden, TokenExpired, TokenRevoked

TASK = """INSERT INTO tasks (team_id, type, data, priority, schedule_type, timeout_seconds, lease_seconds, network,
created_by, created_by_name) VALUES ($1, 'command', '{}', 'normal', 'immediate', 60, 15, 'none', 'a', 'a') RETURNING id"""


@dataclass
class Scene:
    """One team, one API process, one relay, one writer, and a token for the door."""

    api: Api
    door: Door
    writer: Writer
    team_id: UUID
    token: str
    stack: AsyncExitStack


@pytest.fixture
async def scene(clone, admin, api_database, valkey_url) -> AsyncIterator[Scene]:
    door = Door()
    team_id = await admin.fetchval("INSERT INTO teams (slug, name) VALUES ('acme', 'Acme') RETURNING id")
    token = door.admit(team_id)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(relaying(clone.role_url("sfp_deliverer"), valkey_url))
        api = await stack.enter_async_context(serve_api(clone.role_url("sfp_api"), valkey_url, door))
        await api.live.is_hearing.wait()
        yield Scene(api, door, Writer(api_database, door.actors[token]), team_id, token, stack)


async def test_what_happens_after_subscribing_arrives(scene):
    await scene.writer.record("tasks", event="task.created", data={"n": 1})
    async with scene.api.client(scene.token) as client:
        assert await client.subscribe("tasks") == 1
        await scene.writer.record("tasks", event="task.queued", data={"n": 2})
        message = await client.next()
        at = message.pop("at")
        assert at.endswith("Z")
        assert message == {"type": "event", "channel": "tasks", "seq": 2, "event": "task.queued", "data": {"n": 2}}


async def test_the_sub_protocol_is_selected_when_offered(scene):
    async with scene.api.client(scene.token) as client:
        assert client.connection.subprotocol == "sfp.v1"


async def test_a_client_replays_and_goes_on_live(scene):
    await scene.writer.write("tasks", *range(500))
    async with scene.api.client(scene.token) as client:
        await client.subscribe("tasks", after=100)
        await scene.writer.write("tasks", *range(10))
        assert await client.events(410) == list(range(101, 511))


async def test_two_api_processes_tell_the_same(scene, clone, valkey_url):
    other = await scene.stack.enter_async_context(serve_api(clone.role_url("sfp_api"), valkey_url, scene.door))
    async with scene.api.client(scene.token) as one, other.client(scene.token) as two:
        for client in (one, two):
            await client.subscribe("tasks", after=0)
        for _ in range(20):
            await scene.writer.write("tasks", 1, 2, 3)
        assert await one.events(60) == await two.events(60) == list(range(1, 61))


async def test_no_gap_and_no_double_under_writers_and_reconnects(scene, clone, valkey_url):
    other = await scene.stack.enter_async_context(serve_api(clone.role_url("sfp_api"), valkey_url, scene.door))
    total = 4 * 60

    async def write(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(60):
            await scene.writer.write("tasks", 1)
            await asyncio.sleep(chance.random() * 0.01)  # spreads the writers; nothing waits for it

    async def follow(seed: int) -> list[int]:
        chance, seen = random.Random(seed), []
        while len(seen) < total:
            api = chance.choice((scene.api, other))
            async with api.client(scene.token) as client:
                await client.subscribe("tasks", after=seen[-1] if seen else 0)
                seen += await client.events(min(chance.randint(1, 40), total - len(seen)))
        return seen

    followers = [asyncio.create_task(follow(seed)) for seed in range(6)]
    await asyncio.gather(*(write(seed) for seed in range(4)))
    for seen in await asyncio.gather(*followers):
        assert seen == list(range(1, total + 1))


async def test_without_relay_events_still_arrive(clone, admin, api_database, valkey_url):
    door = Door()
    team_id = await admin.fetchval("INSERT INTO teams (slug, name) VALUES ('acme', 'Acme') RETURNING id")
    token = door.admit(team_id)
    writer = Writer(api_database, door.actors[token])
    async with serve_api(clone.role_url("sfp_api"), valkey_url, door) as api, api.client(token) as client:
        await client.subscribe("tasks")
        await writer.write("tasks", 1, 2, 3)
        assert await client.events(3) == [1, 2, 3]


async def test_a_task_channel_needs_a_task_of_the_team(scene, admin):
    foreign_team = await admin.fetchval("INSERT INTO teams (slug, name) VALUES ('beta', 'Beta') RETURNING id")
    own, foreign = [await admin.fetchval(TASK, team) for team in (scene.team_id, foreign_team)]
    async with scene.api.client(scene.token) as client:
        assert await client.subscribe(f"task:{own}") == 0
        for channel in (f"task:{foreign}", f"task:{uuid4()}"):
            await client.send(type="subscribe", channel=channel, after=0)
            answer = await client.next()
            assert (answer["type"], answer["code"], answer["channel"]) == ("error", "not_found", channel)


async def test_another_team_hears_nothing(scene, admin):
    foreign_team = await admin.fetchval("INSERT INTO teams (slug, name) VALUES ('beta', 'Beta') RETURNING id")
    stranger = scene.door.admit(foreign_team)
    theirs = Writer(scene.writer.database, scene.door.actors[stranger])
    async with scene.api.client(scene.token) as ann, scene.api.client(stranger) as bob:
        await ann.subscribe("tasks", after=0)
        assert await bob.subscribe("tasks", after=0) == 0
        await scene.writer.write("tasks", 1, 2, 3)
        assert await ann.events(3) == [1, 2, 3]
        await theirs.write("tasks", 7)
        message = await bob.next()
        assert (message["seq"], message["data"]["n"]) == (1, 7)


NO_CHANNELS = {
    "": "bad_channel",
    "nonsense": "bad_channel",
    "task:1": "bad_channel",
    "tasks\0": "bad_channel",
    "queue:": "bad_channel",
    "lock:acme": "bad_channel",
    "collection:" + "x" * 600: "bad_channel",
    "queue:\ud800": "bad_request",
}


async def test_what_is_no_channel_is_refused(scene):
    answers = {}
    async with scene.api.client(scene.token) as client:
        for channel in NO_CHANNELS:
            await client.send(type="subscribe", channel=channel, after=None)
            answers[channel] = (await client.next())["code"]
    assert answers == NO_CHANNELS


BAD_MESSAGES = [
    "",
    "{",
    "[]",
    '"subscribe"',
    '{"type":"shout"}',
    '{"type":"subscribe"}',
    '{"type":"subscribe","channel":7}',
    '{"type":"subscribe","channel":"tasks","after":"1"}',
    '{"type":"subscribe","channel":"tasks","after":-1}',
    '{"type":"subscribe","channel":"tasks","after":1e30}',
    '{"type":"subscribe","channel":"tasks","after":99999999999999999999}',
    '{"type":"ping","extra":' + "[" * 20000 + "]" * 20000 + "}",
]


async def test_a_bad_message_is_answered_and_the_connection_goes_on(scene):
    async with scene.api.client(scene.token) as client:
        for text in BAD_MESSAGES:
            await client.connection.send(text)
            assert (await client.next())["code"] == "bad_request", text
        await client.send(type="ping")
        assert await client.next() == {"type": "pong"}


async def _drain(client: Client, seen: list[int]) -> None:
    while True:
        message = await client.next()
        seen.append(message.get("seq", 0))


async def _closed(client: Client, seen: list[int] | None = None) -> tuple[int, str]:
    """Code and reason of the close frame; `seen` gets the numbers of the events before it."""
    with pytest.raises(ConnectionClosed) as closed:
        await _drain(client, [] if seen is None else seen)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


async def test_binary_and_oversize_messages_end_the_connection(scene):
    async with scene.api.client(scene.token) as client:
        await client.connection.send(b"{}")
        assert (await _closed(client))[0] == 1003
    async with scene.api.client(scene.token) as client:
        await client.connection.send("x" * 70_000)
        assert (await _closed(client))[0] == 1009


async def test_the_first_message_may_carry_the_token(scene):
    async with scene.api.connection() as connection:
        client = Client(connection)
        await client.send(type="auth", token=scene.token)
        assert await client.subscribe("team") == 0


@pytest.mark.parametrize("first", [{"type": "auth", "token": "wrong"}, {"type": "ping"}, {"type": "subscribe"}, 7])
async def test_who_does_not_sign_in_is_sent_away(scene, first):
    async with scene.api.connection() as connection:
        await connection.send(json.dumps(first))
        assert (await _closed(Client(connection)))[0] == 4001


async def test_a_bad_header_or_a_missing_scope_is_refused(scene):
    async with scene.api.client("wrong") as client:
        assert await _closed(client) == (4001, "token_invalid")
    async with scene.api.client(scene.door.admit(scene.team_id, "tasks:read")) as client:
        assert await _closed(client) == (4003, "forbidden")


async def test_the_right_ends_within_two_seconds(scene):
    async with scene.api.client(scene.token) as client:
        await client.subscribe("tasks")
        await client.subscribe("team")
        scene.door.refusals[scene.token] = TokenRevoked("revoked")
        gone = [await client.next(2), await client.next(2)]
        assert gone == [{"type": "gone", "channel": "tasks"}, {"type": "gone", "channel": "team"}]
        assert await _closed(client) == (4001, "token_revoked")


@pytest.mark.parametrize("lost", ["scope", "team", "membership"])
async def test_a_lost_role_is_a_lost_right(scene, lost):
    async with scene.api.client(scene.token) as client:
        await client.subscribe("tasks")
        match lost:
            case "scope":
                scene.door.actors[scene.token] = scene.door.actors[scene.door.admit(scene.team_id, "tasks:read")]
            case "team":
                scene.door.actors[scene.token] = scene.door.actors[scene.door.admit(uuid4())]
            case "membership":
                scene.door.refusals[scene.token] = Forbidden("no member any more")
        assert await client.next(2) == {"type": "gone", "channel": "tasks"}
        assert (await _closed(client))[0] == 4003


async def test_an_expired_token_is_renewed_in_time_or_its_bearer_comes_back(scene):
    async with scene.api.client(scene.token) as renewed, scene.api.client(scene.token) as late:
        for client in (renewed, late):
            await client.subscribe("tasks", after=0)
        newer = "newer"
        scene.door.actors[newer] = scene.door.actors[scene.token]
        await renewed.send(type="auth", token=newer)
        await renewed.send(type="ping")
        assert await renewed.next() == {"type": "pong"}
        scene.door.refusals[scene.token] = TokenExpired("expired")
        assert await _closed(late) == (4001, "token_expired")
        await scene.writer.write("tasks", 1)
        assert await renewed.events(1) == [1]


async def test_after_unsubscribing_nothing_more_arrives(scene):
    async with scene.api.client(scene.token) as client:
        await client.subscribe("tasks")
        await client.send(type="unsubscribe", channel="tasks")
        await client.send(type="unsubscribe", channel="never-subscribed")
        await client.subscribe("team")
        await scene.writer.record("tasks", "team", event="task.created")
        assert (await client.next())["channel"] == "team"


async def test_a_slow_reader_is_cut_off_and_resumes_while_others_get_everything(scene):
    text, count = "x" * 10_000, 2000
    async with (
        scene.api.client(scene.token) as reader,
        scene.api.client(scene.token, max_queue=1, ping_interval=None) as sleeper,
    ):
        await reader.subscribe("tasks")
        await sleeper.subscribe("tasks")
        reading = asyncio.create_task(reader.events(count))
        for start in range(0, count, 50):
            await scene.writer.write("tasks", *range(start, start + 50), text=text)
        assert await reading == list(range(1, count + 1))
        cut_off = [s for feed in scene.api.live._feeds.values() for s in feed.subscriptions if s.catching_up]
        async with asyncio.timeout(20):
            assert len(cut_off) == 1
            await asyncio.shield(cut_off[0].outbox.broken)
        seen: list[int] = []
        assert await _closed(sleeper, seen) == (4008, "slow_reader")
        assert seen == list(range(1, len(seen) + 1))
        assert len(seen) < count
    async with scene.api.client(scene.token) as client:
        await client.subscribe("tasks", after=len(seen))
        assert await client.events(count - len(seen)) == list(range(len(seen) + 1, count + 1))


async def test_one_connection_has_a_limit_of_subscriptions(scene, monkeypatch):
    monkeypatch.setattr("sfp_server.events.socket.SUBSCRIPTIONS_MAX", 2)
    async with scene.api.client(scene.token) as client:
        await client.subscribe("tasks")
        await client.subscribe("team")
        await client.subscribe("team")
        await client.send(type="subscribe", channel="key-value", after=None)
        assert (await client.next())["code"] == "too_many_subscriptions"


async def test_nothing_is_left_of_a_client_that_has_gone(scene):
    async with scene.api.client(scene.token) as client:
        await client.subscribe("tasks")
        feed = next(iter(scene.api.live._feeds.values()))
        assert len(feed.subscriptions) == 1
    async with scene.api.client(scene.token) as client:  # served after the first one's end was seen
        await client.subscribe("team")
        assert [feed.channel for feed in scene.api.live._feeds.values()] == ["team"]
        assert sum(len(viewers) for viewers in scene.api.live.rights._viewers.values()) == 1
