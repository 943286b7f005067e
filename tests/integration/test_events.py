"""The log itself, its pages, and the stream of one task."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from live_api import Api, Door, Writer, relaying, serve_api
from sfp_server.actor import Actor
from sfp_server.errors import BadChannel, TokenRevoked
from sfp_server.events import service
from sfp_server.events.model import Event

TASK = """INSERT INTO tasks (team_id, type, data, priority, schedule_type, timeout_seconds, lease_seconds, network,
created_by, created_by_name) VALUES ($1, 'command', '{}', 'normal', 'immediate', 60, 15, 'none', 'a', 'a') RETURNING id"""


@dataclass
class Scene:
    api: Api
    door: Door
    admin: asyncpg.Connection
    team_id: UUID
    token: str
    writer: Writer
    http: httpx.AsyncClient

    @property
    def actor(self) -> Actor:
        return self.door.actors[self.token]

    async def task(self) -> str:
        return str(await self.admin.fetchval(TASK, self.team_id))

    async def finish(self, task: str) -> None:
        """As the dispatcher does: the state and its event in one transaction."""
        await self.admin.execute(
            "UPDATE tasks SET status = 'completed', reason = NULL, finished_at = now() WHERE id = $1", UUID(task)
        )
        await self.writer.record(f"task:{task}", "tasks", event="task.completed")

    async def page(self, path: str, **params: object) -> dict:
        answer = await self.http.get(path, params=params, headers={"Accept": "application/json"})
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
async def scene(clone, admin, api_database, valkey_url) -> AsyncIterator[Scene]:
    door = Door()
    team_id = await admin.fetchval("INSERT INTO teams (slug, name) VALUES ('acme', 'Acme') RETURNING id")
    token = door.admit(team_id)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(relaying(clone.role_url("sfp_deliverer"), valkey_url))
        api = await stack.enter_async_context(serve_api(clone.role_url("sfp_api"), valkey_url, door))
        await api.live.is_hearing.wait()
        headers = {"Authorization": f"Bearer {token}"}
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=api.url, headers=headers, timeout=20))
        yield Scene(api, door, admin, team_id, token, Writer(api_database, door.actors[token]), http)


async def test_recorded_events_are_read_in_order(scene):
    async with scene.writer.database.transaction(scene.actor) as tx:
        await service.record(tx, scene.team_id, ["tasks", "queue:normal"], "task.created", {"id": "a"})
    assert await scene.writer.write("tasks", 1, 2) == 3
    async with scene.writer.database.transaction(scene.actor) as tx:
        first, *rest = await service.read(tx, "tasks", 0, 10)
        assert first == Event(channel="tasks", seq=1, event="task.created", at=first.at, data={"id": "a"})
        assert [(event.seq, event.event, event.data["n"]) for event in rest] == [(2, "task.log", 1), (3, "task.log", 2)]
        assert [event.seq for event in await service.read(tx, "tasks", 1, 1)] == [2]
        assert len(await service.read(tx, "queue:normal", 0, 10)) == 1


HOSTILE = [
    ("a\0b", "a\ufffdb"),
    ("a\ud800b", "a\ufffdb"),
    ({"k\0": ["\udc80"]}, {"k\ufffd": ["\ufffd"]}),
    ("😀 \\u0000", "😀 \\u0000"),
    (None, None),
    (1.5, 1.5),
]


async def test_what_a_hostile_worker_prints_is_recorded_all_the_same(scene):
    given, stored = [data for data, _ in HOSTILE], [data for _, data in HOSTILE]
    await scene.writer.record("tasks", event="task.log", data=given)
    async with scene.writer.database.transaction(scene.actor) as tx:
        await service.record_batch(tx, scene.team_id, "tasks", "task.log", given)
        first, *rest = await service.read(tx, "tasks", 0, 10)
    assert first.data == [event.data for event in rest] == stored


async def test_only_channels_of_a_known_form_are_recorded(scene):
    with pytest.raises(BadChannel):
        await scene.writer.record("tasks", "nonsense", event="task.created")


async def test_pages_follow_each_other_without_gap(scene):
    await scene.writer.write("tasks", *range(7))
    seen, params = [], {"channel": "tasks", "limit": 3}
    while True:
        page = await scene.page("/events", **params)
        seen += [item["seq"] for item in page["items"]]
        if page["nextCursor"] is None:
            break
        params["cursor"] = page["nextCursor"]
    assert seen == list(range(1, 8))
    (item,) = (await scene.page("/events", channel="tasks", after=6))["items"]
    assert item.pop("at").endswith("Z")
    assert item == {"channel": "tasks", "seq": 7, "event": "task.log", "data": {"n": 6, "text": ""}}


async def test_a_long_poll_answers_when_something_happens(scene):
    polling = asyncio.create_task(scene.page("/events", channel="tasks", wait=20))
    while not scene.api.live._feeds:  # until it is held back
        await asyncio.sleep(0)
    await scene.writer.write("tasks", 1)
    assert [item["seq"] for item in (await polling)["items"]] == [1]
    assert (await scene.page("/events", channel="tasks", after=1, wait=0.01))["items"] == []


async def test_a_long_poll_ends_when_the_right_does(scene):
    polling = asyncio.create_task(scene.http.get("/events", params={"channel": "tasks", "wait": 20}))
    while not scene.api.live._feeds:
        await asyncio.sleep(0)
    scene.door.refusals[scene.token] = TokenRevoked("revoked")
    async with asyncio.timeout(3):
        answer = await polling
    assert (answer.status_code, answer.json()["code"]) == (401, "token_revoked")


BAD_QUESTIONS = [
    {},
    {"channel": "nonsense"},
    {"channel": "tasks", "after": "-1"},
    {"channel": "tasks", "after": "x"},
    {"channel": "tasks", "after": "9" * 30},
    {"channel": "tasks", "cursor": "?"},
    {"channel": "tasks", "limit": "0"},
    {"channel": "tasks", "limit": "201"},
    {"channel": "tasks", "wait": "31"},
    {"channel": "tasks", "wait": "nan"},
    {"channel": "tasks\0"},
]


async def test_a_bad_question_is_400(scene):
    for params in BAD_QUESTIONS:
        assert (await scene.http.get("/events", params=params)).status_code == 400, params


async def test_a_foreign_task_has_no_events(scene):
    foreign_team = await scene.admin.fetchval("INSERT INTO teams (slug, name) VALUES ('beta', 'Beta') RETURNING id")
    for task in (await scene.admin.fetchval(TASK, foreign_team), uuid4()):
        for path in (f"/tasks/{task}/events", f"/events?channel=task:{task}"):
            for accept in ("application/json", "text/event-stream"):
                answer = await scene.http.get(path, headers={"Accept": accept})
                assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def _stream(scene: Scene, task: str, headers: dict | None = None, **params: object) -> AsyncIterator[dict]:
    """The fields of each event of the stream, until the server ends it."""
    path = f"/tasks/{task}/events"
    async with scene.http.stream("GET", path, params=params, headers=headers or {}) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        found: dict = {}
        async for line in answer.aiter_lines():
            name, _, value = line.partition(": ")
            if not line and found:
                yield found
                found = {}
            elif name:
                found[name] = value


async def test_a_stream_replays_goes_on_live_and_ends_with_the_task(scene):
    task = await scene.task()
    await scene.writer.write(f"task:{task}", *range(3))
    stream = _stream(scene, task)
    seen = [await anext(stream) for _ in range(3)]
    await scene.writer.write(f"task:{task}", 3)
    seen.append(await anext(stream))
    await scene.finish(task)
    seen += [event async for event in stream]
    assert [event["id"] for event in seen] == ["1", "2", "3", "4", "5"]
    assert [event["event"] for event in seen] == ["task.log"] * 4 + ["task.completed"]
    assert f'"channel":"task:{task}","seq":5,"event":"task.completed"' in seen[-1]["data"]


async def test_a_stream_resumes_after_the_last_event_id(scene):
    task = await scene.task()
    await scene.writer.write(f"task:{task}", *range(3))
    await scene.finish(task)
    assert [event["id"] async for event in _stream(scene, task, after=1)] == ["2", "3", "4"]
    assert [event["id"] async for event in _stream(scene, task, {"Last-Event-ID": "3"})] == ["4"]
    assert [event["id"] async for event in _stream(scene, task, after=4)] == []
    nothing = await scene.http.get(f"/tasks/{task}/events", headers={"Last-Event-ID": "4"})
    assert (nothing.status_code, nothing.content) == (204, b"")  # a browser then stops asking
    bad = await scene.http.get(f"/tasks/{task}/events", headers={"Last-Event-ID": "x"})
    assert bad.status_code == 400


async def test_what_follows_a_final_event_does_not_hold_the_stream_open(scene):
    task = await scene.task()
    await scene.finish(task)
    await scene.writer.record(f"task:{task}", event="task.logs_deleted")
    assert [event["id"] async for event in _stream(scene, task, after=1)] == ["2"]


async def test_a_stream_ends_when_the_right_does(scene):
    task = await scene.task()
    await scene.writer.write(f"task:{task}", 1)
    stream = _stream(scene, task)
    await anext(stream)
    scene.door.refusals[scene.token] = TokenRevoked("revoked")
    async with asyncio.timeout(2):
        assert [event["event"] async for event in stream] == ["gone"]


async def test_a_stream_shows_that_it_lives(scene, monkeypatch):
    monkeypatch.setattr("sfp_server.events.stream.HEARTBEAT", 0.02)
    task = await scene.task()
    async with scene.http.stream("GET", f"/tasks/{task}/events") as answer:
        lines = answer.aiter_lines()
        async with asyncio.timeout(5):
            assert ": still here" in [await anext(lines) for _ in range(5)]


async def test_nothing_is_left_of_a_stream_whose_reader_has_gone(scene):
    task = await scene.task()
    async with scene.http.stream("GET", f"/tasks/{task}/events") as answer:
        await anext(answer.aiter_lines())
        assert scene.api.live._feeds
    async with asyncio.timeout(5):
        while scene.api.live._feeds or scene.api.live.rights._viewers:
            await asyncio.sleep(0)


async def test_a_page_of_a_task_is_json(scene):
    task = await scene.task()
    await scene.writer.write(f"task:{task}", 1, 2)
    assert [item["seq"] for item in (await scene.page(f"/tasks/{task}/events", after=1))["items"]] == [2]
