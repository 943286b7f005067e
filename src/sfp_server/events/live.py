"""Everybody who looks at events in this process, and how new events reach them: in order, none missing, none twice.

A subscription is *live* while each publication that arrives continues where it stands; that costs no query. In
every other case (it starts in the past, a publication is missing, its client is slower than the events) it
*catches up*: it reads the log, as its actor, until it stands where the channel does. Once a second the
channels' last numbers are compared too, so that all this goes on, slower, without Valkey and without relay.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import msgspec
import structlog
import valkey.asyncio
from valkey.exceptions import ValkeyError

from sfp_server.actor import Actor
from sfp_server.db.database import Database
from sfp_server.errors import SfpError, Unavailable
from sfp_server.events import service
from sfp_server.events.fanout import FANOUT, Publication, unbundle
from sfp_server.events.model import Frame, parse_channel
from sfp_server.events.outage import Outage
from sfp_server.events.outbox import Outbox, SlowReader
from sfp_server.events.rights import Rights, Viewer

#: seconds between two looks at the channels' last numbers, with Valkey and without
POLL_EVERY, POLL_ALONE_EVERY = 1.0, 0.25
#: events read at once, and subscriptions that read at once: the pool belongs to the requests
PAGE, READERS = 200, 4
RETRY_DELAY, LISTEN_TIMEOUT = 0.25, 60.0

_log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False, kw_only=True)
class Feed:
    """One channel of one team, while somebody in this process looks at it."""

    team_id: UUID
    channel: str
    #: the highest number heard of; the channel may be further, never less far
    head: int = 0
    subscriptions: set["Subscription"] = field(default_factory=set["Subscription"])


@dataclass(slots=True, eq=False, kw_only=True)
class Subscription:
    """One client's look at one channel."""

    viewer: Viewer
    feed: Feed
    outbox: Outbox
    #: the last number in the outbox (or sent)
    cursor: int
    #: the channel's last number when the subscription was opened
    seq: int
    #: it is the channel of a task that was final already when the subscription was opened
    is_final: bool = False
    has_begun: bool = False
    is_live: bool = False
    catching_up: asyncio.Task[None] | None = None


def _keep_cancellation() -> None:
    """valkey-py tries its connections under `asyncio.timeout(0)`; on Python 3.11 that may swallow a cancellation."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class Live:
    """The subscriptions of this process. They are served while `run` runs; `Rights` runs with it."""

    def __init__(self, database: Database, cache: "valkey.asyncio.Valkey", rights: Rights) -> None:
        self._database = database
        self._cache = cache
        self.rights = rights
        self._feeds: dict[tuple[UUID, str], Feed] = {}
        self._reading = asyncio.Semaphore(READERS)
        self._valkey_outage = Outage("valkey", "live events come from the database alone, up to 0.3 s later")
        self._database_outage = Outage("database", "no live events until it is back")
        #: set while Valkey is connected
        self.is_hearing = asyncio.Event()

    async def run(self) -> None:
        """Serve until cancelled; survives the absence of the database, of Valkey and of the relay."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._hear())
                group.create_task(self._poll())
                group.create_task(self.rights.run())
        finally:
            for feed in list(self._feeds.values()):
                for subscription in list(feed.subscriptions):
                    self.close(subscription)

    async def open(self, viewer: Viewer, channel: str, *, after: int | None, outbox: Outbox) -> Subscription:
        """Subscribe to what follows number `after` of a channel, None: to what follows from now on.

        Nothing arrives in the outbox before `begin`, and nothing is lost between the two.

        Raises:
            BadChannel: there is no such kind of channel.
            NotFound: it is the channel of a task that the viewer's team does not have.
            Unavailable: the database is away.
        """
        team_id = viewer.actor.team_id
        assert team_id is not None, "a viewer has a team"
        key = team_id, parse_channel(channel)
        feed = self._feeds.setdefault(key, Feed(team_id=team_id, channel=channel))
        subscription = Subscription(viewer=viewer, feed=feed, outbox=outbox, cursor=0, seq=0)
        # Before the number is read: a publication from now on raises the feed's head.
        feed.subscriptions.add(subscription)
        try:
            async with self._database.transaction(viewer.actor) as tx:
                # The status first: a task that is final then has its final event below the number read after.
                subscription.is_final = await service.is_final(tx, channel)
                subscription.seq = await service.last_seq(tx, channel)
        except BaseException:
            self.close(subscription)
            raise
        feed.head = max(feed.head, subscription.seq)
        subscription.cursor = subscription.seq if after is None else after
        return subscription

    def begin(self, subscription: Subscription) -> None:
        """Start to fill the outbox."""
        subscription.has_begun = True
        if subscription.cursor < subscription.feed.head:
            self._catch_up(subscription)
        else:
            subscription.is_live = True

    def close(self, subscription: Subscription) -> None:
        """End a subscription. Closing twice is fine."""
        feed = subscription.feed
        feed.subscriptions.discard(subscription)
        if not feed.subscriptions and self._feeds.get((feed.team_id, feed.channel)) is feed:
            del self._feeds[feed.team_id, feed.channel]
        if subscription.catching_up is not None:
            subscription.catching_up.cancel()

    # ------------------------------------------------------------------------------------ publications

    async def _hear(self) -> None:
        while True:
            try:
                await self._listen()
            except (ValkeyError, OSError) as error:
                self._valkey_outage.began(error)
            except Exception:  # must survive anything: the poll serves meanwhile
                _log.exception("listening to valkey failed")
            self.is_hearing.clear()
            await asyncio.sleep(RETRY_DELAY)

    async def _listen(self) -> None:
        async with self._cache.pubsub() as pubsub:  # pyright: ignore[reportUnknownMemberType] (untyped library)
            await pubsub.subscribe(FANOUT)  # pyright: ignore[reportUnknownMemberType]
            while True:
                # With a time, lest the client's own time limit for answers ends this long wait as an error.
                message: dict[str, Any] | None = await pubsub.get_message(timeout=LISTEN_TIMEOUT)  # pyright: ignore[reportUnknownVariableType] (untyped library)
                if message is not None and message["type"] == "subscribe":
                    self.is_hearing.set()
                    self._valkey_outage.over()
                elif message is not None:
                    self._receive(message["data"])
                _keep_cancellation()

    def _receive(self, message: bytes) -> None:
        try:
            for item in unbundle(message):
                feed = self._feeds.get((item.team_id, item.channel))
                if feed is not None:
                    self._pass_on(item, feed)
        except msgspec.MsgspecError:
            # A relay of another release: the poll finds what it tells.
            _log.warning("a publication was not understood")

    def _pass_on(self, item: Publication, feed: Feed) -> None:
        feed.head = max(feed.head, item.last)
        frames: list[Frame] | None = None
        for subscription in list(feed.subscriptions):
            # One that catches up compares itself with the head before it goes live.
            if not subscription.is_live or item.last <= subscription.cursor:
                continue
            if item.first > subscription.cursor + 1:
                self._catch_up(subscription)
                continue
            frames = item.frames() if frames is None else frames
            fresh = frames[subscription.cursor + 1 - item.first :]
            subscription.cursor += subscription.outbox.offer(fresh)
            if subscription.cursor < item.last:
                self._catch_up(subscription)

    # -------------------------------------------------------------------------------------- the log

    def _catch_up(self, subscription: Subscription) -> None:
        if subscription.catching_up is None:
            subscription.is_live = False
            subscription.catching_up = asyncio.create_task(self._replay(subscription))

    async def _replay(self, subscription: Subscription) -> None:
        """Read the log into the outbox, at the client's pace, until the channel's head is reached."""
        try:
            while subscription.cursor < subscription.feed.head:
                if not await self._replay_page(subscription):
                    break
        except Unavailable:
            return  # the poll begins again when the database is back
        except SlowReader as error:
            subscription.outbox.fail(error)
            return
        except Exception as error:  # a bug ends this client's connection, not everybody's
            _log.exception("a subscription could not catch up")
            subscription.outbox.fail(error)
            return
        finally:
            subscription.catching_up = None
        subscription.is_live = True

    async def _replay_page(self, subscription: Subscription) -> bool:
        """One page; False when there is nothing more to read."""
        feed, actor = subscription.feed, subscription.viewer.actor
        async with self._reading, self._database.transaction(actor) as tx:
            frames = await service.read_frames(tx, feed.channel, subscription.cursor, PAGE)
        for frame in frames:
            await subscription.outbox.put(frame)
            subscription.cursor = frame.seq
        return bool(frames)

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_EVERY if self.is_hearing.is_set() else POLL_ALONE_EVERY)
            for team_id in {feed.team_id for feed in self._feeds.values()}:
                try:
                    await self._compare([feed for feed in self._feeds.values() if feed.team_id == team_id])
                except SfpError as error:
                    self._database_outage.began(error)
                except Exception:  # must survive anything: without it a lost publication would never be noticed
                    _log.exception("the last numbers of channels could not be compared")
                else:
                    self._database_outage.over()

    async def _compare(self, feeds: Iterable[Feed]) -> None:
        """Look up how far the channels of one team are, and let those catch up that stand behind."""
        by_name = {feed.channel: feed for feed in feeds}
        actor = _somebody(by_name.values())
        if actor is None:
            return
        async with self._reading, self._database.transaction(actor) as tx:
            heads = await service.last_seqs(tx, list(by_name))
        for name, head in heads.items():
            feed = by_name[name]
            feed.head = max(feed.head, head)
            for subscription in list(feed.subscriptions):
                if subscription.cursor < feed.head and subscription.has_begun:
                    self._catch_up(subscription)


def _somebody(feeds: Iterable[Feed]) -> Actor | None:
    """Any viewer of these feeds: what a channel's number is, all of a team may see."""
    return next((viewing.viewer.actor for feed in feeds for viewing in feed.subscriptions), None)
