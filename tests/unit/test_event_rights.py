"""Who looks is checked again and again; who cannot be checked does not stay for ever."""

import asyncio
from uuid import uuid4

import pytest

from live_api import Door
from sfp_server.errors import TokenRevoked, Unavailable
from sfp_server.events.rights import Rights, Ticket


@pytest.mark.parametrize(("trust", "ends"), [(60.0, False), (-1.0, True)])
async def test_who_cannot_be_checked_stays_for_a_while_only(monkeypatch, trust, ends):
    monkeypatch.setattr("sfp_server.events.rights.CHECK_EVERY", 0)
    monkeypatch.setattr("sfp_server.events.rights.UNCHECKED_MAX", trust)
    asked: asyncio.Queue[None] = asyncio.Queue()
    door = Door()
    ticket = Ticket(token=door.admit(uuid4()), team=None)

    async def authenticate(token: str, *, team: str | None, address: str = ""):
        asked.put_nowait(None)
        return await door(token, team=team, address=address)

    rights = Rights(authenticate)
    door.refusals[ticket.token] = Unavailable("away")
    with rights.viewing(ticket, door.actors[ticket.token]) as viewer:
        checking = asyncio.create_task(rights.run())
        for _ in range(3):
            await asked.get()
        assert viewer.ended.done() is ends
        door.refusals[ticket.token] = TokenRevoked("revoked")
        await viewer.ended
        checking.cancel()
        await asyncio.wait({checking})


def test_a_token_is_not_shown():
    ticket = Ticket(token="a-token", team="acme")
    assert ticket.token not in repr(ticket)
