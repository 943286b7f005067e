"""Record and read events, inside the caller's transaction, which acts in the events' team."""

from collections.abc import Sequence
from typing import Any, cast
from uuid import UUID

import msgspec

from sfp_server.db import queries
from sfp_server.db.database import Row, Tx
from sfp_server.errors import NotFound
from sfp_server.events.model import FINAL_TASK_STATUSES, Event, Frame, frame, parse_channel, task_of

SQL = queries.load(__package__ or "", "events.sql")


async def record(tx: Tx, team_id: UUID, channels: Sequence[str], event: str, data: Any) -> None:
    """Append one event to each of `channels` and wake the readers when the transaction commits.

    Call it once and last in a transaction: the channels' numbers stay locked until it ends. `data` is any JSON
    value, without secrets: every member of the team may see it.

    Raises:
        BadChannel: a channel has no known form.
    """
    names = [parse_channel(name) for name in channels]
    await tx.execute(SQL["record"], team_id, names, event, _json(data))


async def record_batch(tx: Tx, team_id: UUID, channel: str, event: str, datas: Sequence[Any]) -> int:
    """Append one event of the same name per item of `datas`, in order; answer the last number. Once and last, too.

    Raises:
        BadChannel: the channel has no known form.
        ValueError: there is nothing to record.
    """
    if not datas:
        raise ValueError("an empty batch has no number")
    texts = [_json(data) for data in datas]
    return int(await tx.value(SQL["record_batch"], team_id, parse_channel(channel), event, texts))


async def read(tx: Tx, channel: str, after: int, limit: int) -> list[Event]:
    """The next events of a channel after number `after`, in order; fewer than `limit` when there are no more."""
    rows = await tx.all(SQL["read"], channel, after, limit)
    return [Event(**row) for row in rows]


async def read_frames(tx: Tx, channel: str, after: int, limit: int) -> list[Frame]:
    """As `read`, in the form that goes out."""
    return [frame(**row) for row in await tx.all(SQL["frames"], channel, after, limit)]


async def last_seqs(tx: Tx, channels: Sequence[str]) -> dict[str, int]:
    """The last number of each channel that has one; what was never recorded is missing."""
    rows: Sequence[Row] = await tx.all(SQL["heads"], channels)
    return {row["name"]: row["last_seq"] for row in rows}


async def last_seq(tx: Tx, channel: str) -> int:
    """The last number of a channel of the actor's team, 0 when nothing was ever recorded there."""
    return (await last_seqs(tx, [channel])).get(channel, 0)


async def is_final(tx: Tx, channel: str) -> bool:
    """Whether the channel is that of a task which will not run any more.

    Raises:
        NotFound: it is the channel of a task, and the actor's team has no such task.
    """
    task_id = task_of(channel)
    if task_id is None:
        return False
    status = await tx.value(SQL["task_status"], task_id)
    if status is None:
        raise NotFound("there is no such task")
    return status in FINAL_TASK_STATUSES


def _json(data: Any) -> str:
    """JSON text that PostgreSQL takes: a worker may print NUL bytes or broken UTF-8, and its log goes on."""
    try:
        text = msgspec.json.encode(data).decode()
    except UnicodeEncodeError:
        text = msgspec.json.encode(_clean(data)).decode()
    return msgspec.json.encode(_clean(data)).decode() if "\\u0000" in text else text


def _clean(data: Any) -> Any:
    """The same value with a replacement character for each NUL and each lone surrogate."""
    match data:
        case str():
            return data.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        case dict():
            items = cast("dict[Any, Any]", data).items()  # any JSON object
            return {_clean(key): _clean(value) for key, value in items}
        case list() | tuple():
            return [_clean(item) for item in cast("Sequence[Any]", data)]  # any JSON array
        case _:
            return data
