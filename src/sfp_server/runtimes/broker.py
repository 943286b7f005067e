"""Where a worker's connection to the credential broker comes from.

Beside the broker it is a unix socket. From another machine it is a TCP connection to the instance's courier, which
hands it through; the worker speaks TLS over it with the broker itself, so that neither the courier nor the
dispatcher that dialled sees what is drawn.
"""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sfp_server.runtimes.base import RuntimeUnavailable

#: the first bytes of a connection that the courier is to hand through
PREFACE = b"sfpbrok1"
#: the name in the broker's certificate
NAME = "broker.sfp.internal"
#: seconds that a start waits for a broker that is away, and between two tries
BROKER_SECONDS = 20.0
BROKER_PAUSE_SECONDS = 0.2
_CONNECT_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteBroker:
    """The broker of an instance on another machine."""

    host: str
    port: int
    #: PEM of the instance's own authority
    ca: str
    #: makes the proof that a ticket is this dispatcher's
    prove: Callable[[str], str]

    def introduction(self, ticket: str) -> dict[str, str]:
        """What the worker needs beside its ticket."""
        return {"ca": self.ca, "name": NAME, "proof": self.prove(ticket)}


BrokerDoor = Path | RemoteBroker


async def connect(door: BrokerDoor | None) -> int:
    """A connected descriptor; a broker on its way back from a crash is waited for: the task need not die with it.

    Raises RuntimeUnavailable.
    """
    if door is None:
        raise RuntimeUnavailable("no credential broker is configured")
    loop = asyncio.get_running_loop()
    deadline = loop.time() + BROKER_SECONDS
    while True:
        try:
            connection = await asyncio.wait_for(_connected(door), _CONNECT_SECONDS)
        except (OSError, TimeoutError) as error:
            if loop.time() > deadline:
                raise RuntimeUnavailable("the credential broker cannot be reached") from error
            await asyncio.sleep(BROKER_PAUSE_SECONDS)
        else:
            return connection.detach()


async def _connected(door: BrokerDoor) -> socket.socket:
    loop = asyncio.get_running_loop()
    if isinstance(door, Path):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        address: object = str(door)
    else:
        found = await loop.getaddrinfo(door.host, door.port, type=socket.SOCK_STREAM)
        family, _, _, _, address = found[0]
        connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        await loop.sock_connect(connection, address)
        if isinstance(door, RemoteBroker):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_sendall(connection, PREFACE)
    except BaseException:
        connection.close()
        raise
    return connection
