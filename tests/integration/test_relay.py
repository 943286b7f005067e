"""The relay: what it publishes, also when there is more than it reads at once."""

import asyncio

import valkey.asyncio

from live_api import Door, Writer, relaying
from sfp_server.events.fanout import FANOUT, unbundle
from sfp_server.events.model import Frame


async def _published(pubsub, team_id, total: int) -> dict[str, list[Frame]]:
    """What was published of one team, by channel, as soon as there are so many events."""
    found: dict[str, list[Frame]] = {}
    async with asyncio.timeout(20):
        while sum(map(len, found.values())) < total:
            message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=20)
            for item in unbundle(message["data"]) if message else []:
                if item.team_id == team_id:
                    assert (item.first, item.last) == (item.frames()[0].seq, item.frames()[-1].seq)
                    found.setdefault(item.channel, []).extend(item.frames())
    return found


async def test_more_than_one_read_holds_is_relayed_in_order(clone, admin, api_database, valkey_url, monkeypatch):
    monkeypatch.setattr("sfp_server.events.relay.EVENTS_AT_ONCE", 70)
    monkeypatch.setattr("sfp_server.events.relay.CHANNELS_AT_ONCE", 3)
    team_id = await admin.fetchval("INSERT INTO teams (slug, name) VALUES ('acme', 'Acme') RETURNING id")
    door = Door()
    writer = Writer(api_database, door.actors[door.admit(team_id)])
    channels = [f"collection:c{number}" for number in range(8)]
    async with (
        valkey.asyncio.from_url(valkey_url) as cache,
        cache.pubsub() as pubsub,
        relaying(clone.role_url("sfp_deliverer"), valkey_url),
    ):
        await pubsub.subscribe(FANOUT)
        for _ in range(5):
            await asyncio.gather(*(writer.write(channel, *range(20)) for channel in channels))
        published = await _published(pubsub, team_id, 100 * len(channels))
    numbers = {name: [frame.seq for frame in frames] for name, frames in published.items()}
    assert numbers == {channel: list(range(1, 101)) for channel in channels}
