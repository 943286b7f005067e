"""Channel names, frames and the outbox: rules without I/O."""

import asyncio
import json
from datetime import UTC, datetime
from uuid import UUID, uuid4

import msgspec
import pytest

from sfp_server.errors import BadChannel
from sfp_server.events.fanout import BUNDLE_SIZE, bundles, publication, unbundle
from sfp_server.events.model import CHANNEL_MAX, Frame, frame, parse_channel, runs, task_of
from sfp_server.events.outbox import Outbox, SlowReader

TASK = UUID("01936a5e-7c21-7d3b-9a54-0f3e8c1b2d47")


@pytest.mark.parametrize(
    "name",
    [
        "tasks",
        "key-value",
        "team",
        f"task:{TASK}",
        "queue:normal",
        f"environment:{TASK}",
        "lock:acme/core",
        "lock:acme/core/a b",
        "collection:builds/2026 Ä",
    ],
)
def test_channels_of_a_known_form_are_accepted(name):
    assert parse_channel(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Tasks",
        "tasks\n",
        f"task:{str(TASK).upper()}" if str(TASK) != str(TASK).upper() else "task:",
        f"task:{TASK} ",
        "task:*",
        "queue:*",
        "queue:Normal",
        "environment:",
        "lock:acme",
        "lock:/x",
        "lock:x/",
        "collection:",
        "collection:a\0b",
        "collection:\ud800",
        "collection:" + "x" * CHANNEL_MAX,
    ],
)
def test_anything_else_is_no_channel(name):
    with pytest.raises(BadChannel):
        parse_channel(name)


def test_a_task_channel_names_its_task():
    assert task_of(f"task:{TASK}") == TASK
    assert task_of("tasks") is None


def test_a_frame_is_the_event_as_json():
    at = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
    made = frame(channel='collection:"x"', seq=7, event="document.updated", at=at, data='{"a": [1]}')
    assert json.loads(made.body) == {
        "channel": 'collection:"x"',
        "seq": 7,
        "event": "document.updated",
        "at": "2026-01-02T03:04:05.678000Z",
        "data": {"a": [1]},
    }


def _frames(*numbers: int, size: int = 10) -> list[Frame]:
    return [Frame(number, "e", "x" * size) for number in numbers]


def test_runs_are_cut_where_a_number_is_missing():
    assert [[item.seq for item in run] for run in runs(_frames(1, 2, 4, 5, 9))] == [[1, 2], [4, 5], [9]]
    assert runs([]) == []


def test_publications_survive_the_way_in_order_and_in_messages_of_bounded_size():
    team = uuid4()
    sent = [publication(team, "tasks", _frames(*range(n, n + 10), size=20_000)) for n in range(0, 40, 10)]
    messages = bundles(sent)
    assert len(messages) == len(sent)
    assert max(len(message) for message in messages) < BUNDLE_SIZE + 1000
    received = [item for message in messages for item in unbundle(message)]
    assert [(item.team_id, item.channel, item.first, item.last) for item in received] == [
        (team, "tasks", n, n + 9) for n in range(0, 40, 10)
    ]
    assert received[2].frames() == _frames(*range(20, 30), size=20_000)
    small = [publication(team, "tasks", _frames(1)), publication(team, "team", _frames(1))]
    assert len(bundles(small)) == 1
    with pytest.raises(msgspec.MsgspecError):
        unbundle(b"nonsense")


async def test_an_outbox_takes_what_fits_and_no_more():
    outbox = Outbox(items_max=3, size_max=100)
    assert outbox.offer(_frames(1, 2, 3, 4)) == 3
    assert [(await outbox.take()).seq for _ in range(3)] == [1, 2, 3]
    assert outbox.offer(_frames(5, size=1000)) == 1, "one item always fits"
    assert outbox.offer(_frames(6)) == 0


async def test_who_waits_for_room_goes_on_when_there_is_some():
    outbox = Outbox(items_max=2, stall=5)
    outbox.offer(_frames(1, 2))
    putting = asyncio.create_task(outbox.put(Frame(3, "e", "x")))
    assert [(await outbox.take()).seq for _ in range(3)] == [1, 2, 3]
    await putting


async def test_who_makes_no_room_is_slow():
    outbox = Outbox(items_max=1, stall=0.01)
    await outbox.put("one")
    with pytest.raises(SlowReader):
        await outbox.put("two")


async def test_sent_means_taken_and_done():
    outbox = Outbox()
    await outbox.put("one")
    sent = asyncio.create_task(outbox.sent())
    assert await outbox.take() == "one"
    assert not sent.done()
    outbox.done()
    await sent
