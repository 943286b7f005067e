"""An event, a channel's name, and the forms in which events travel. No I/O."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from sfp_server.errors import BadChannel

#: characters; keeps a NOTIFY payload far below PostgreSQL's 8,000 bytes
CHANNEL_MAX = 512

_ID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_TEXT = r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]"
_CHANNEL = re.compile(
    rf"tasks|key-value|team|task:{_ID}|queue:[a-z][a-z0-9_-]{{0,62}}|environment:[A-Za-z0-9_-]{{1,64}}"
    rf"|lock:{_TEXT}+/{_TEXT}+|collection:{_TEXT}+"
)

#: after one of these nothing more is told on a task's channel
FINAL_TASK_EVENTS = frozenset({"task.completed", "task.failed", "task.cancelled"})
FINAL_TASK_STATUSES = frozenset({"completed", "failed", "cancelled"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One entry of the log. `seq` rises by one per team and channel, from 1, without holes."""

    channel: str
    seq: int
    event: str
    at: datetime
    #: any JSON value
    data: Any


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """An event as it goes out: `body` is the JSON object `{"channel","seq","event","at","data"}`."""

    seq: int
    event: str
    body: str

    @property
    def size(self) -> int:
        """Characters of the body: close enough to bytes for a limit on memory."""
        return len(self.body)


def frame(*, channel: str, seq: int, event: str, at: datetime, data: str) -> Frame:
    """Put a frame together. `data` is JSON text already: it is neither parsed nor written again."""
    head = msgspec.json.encode({"channel": channel, "seq": seq, "event": event, "at": at}).decode()
    return Frame(seq, event, f'{head[:-1]},"data":{data}}}')


def parse_channel(text: str) -> str:
    """Answer `text` when it is the name of a channel.

    Raises:
        BadChannel: it is not of a known form.
    """
    if len(text) > CHANNEL_MAX or not _CHANNEL.fullmatch(text):
        raise BadChannel("no such kind of channel; known: task:<id>, tasks, queue:<name>, environment:<id>, …")
    return text


def task_of(channel: str) -> UUID | None:
    """The task whose channel this is, or None for any other channel."""
    kind, _, name = channel.partition(":")
    return UUID(name) if kind == "task" else None


def runs(frames: Sequence[Frame]) -> list[Sequence[Frame]]:
    """Cut a rising sequence wherever a number is missing, so that each piece has none missing."""
    cuts = [i for i in range(1, len(frames)) if frames[i].seq != frames[i - 1].seq + 1]
    edges = [0, *cuts, len(frames)]
    return [frames[start:end] for start, end in itertools.pairwise(edges) if start < end]
