"""Draws the attempt's credentials: the ticket goes to the broker once, the values come back once."""

from __future__ import annotations

from _socket import AF_UNIX, SOCK_STREAM, socket

from sfp_worker import wire
from sfp_worker.failure import Failed

TYPE_CHECKING = False  # typing costs more to import than all of this package
if TYPE_CHECKING:
    from typing import Any

#: bytes of the broker's answer
MAX_ANSWER = 4 * 1024 * 1024
#: seconds until the broker must have answered
PATIENCE_SECONDS = 30.0


class Drawn:
    """What the program gets, and what must never be seen elsewhere."""

    def __init__(self, env: dict[str, str], values: list[str], git: list[tuple[str, str]]) -> None:
        self.env = env
        self.values = values
        #: (address, header): how git signs in for every repository below the address
        self.git = git


NOTHING = Drawn({}, [], [])


def draw(descriptor: int, ticket: str, introduction: Any = None) -> Drawn:
    """Redeem `ticket` over the connected socket, which is closed afterwards.

    `introduction` (authority, name, proof) is for a broker on another machine: nobody on the way can listen.

    Raises:
        Failed: `credential`; says which, never its value.
    """
    asked = {"ticket": ticket} if introduction is None else {"ticket": ticket, "proof": introduction["proof"]}
    broker: Any = None
    try:
        broker = _near(descriptor) if introduction is None else _far(descriptor, introduction)
        broker.sendall(wire.dumps(asked).encode() + b"\n")
        line = _line(broker)
    except OSError as error:
        raise Failed("credential", "the credential broker did not answer") from error
    finally:
        if broker is not None:
            broker.close()
    try:
        return _parse(wire.loads(line.decode()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        # Without the cause: it may quote the answer.
        raise Failed("credential", "the credential broker answered something unknown") from None


def _near(descriptor: int) -> socket:
    broker = socket(AF_UNIX, SOCK_STREAM, 0, fileno=descriptor)
    broker.settimeout(PATIENCE_SECONDS)
    return broker


def _far(descriptor: int, introduction: Any) -> Any:
    """TLS with the broker itself, whoever carries it. Raises OSError when it is somebody else."""
    import socket as sockets
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # which verifies certificate and name
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=introduction["ca"])
    carried = sockets.socket(fileno=descriptor)
    carried.settimeout(PATIENCE_SECONDS)
    return context.wrap_socket(carried, server_hostname=introduction["name"])


def _line(broker: Any) -> bytes:
    data = bytearray()
    while not data.endswith(b"\n"):
        part = broker.recv(64 * 1024)
        if not part or len(data) > MAX_ANSWER:
            raise OSError("no complete answer")
        data += part
    return bytes(data)


def _parse(answer: Any) -> Drawn:
    if "error" in answer:
        raise Failed(str(answer["error"]["code"]), str(answer["error"]["message"])[:500])
    env: dict[str, str] = {}
    values: list[str] = []
    for credential in answer["credentials"]:
        name, value = credential["env"], credential["value"]
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError
        if not name or "=" in name or "\0" in name + value:
            raise Failed("credential", f"credential {str(credential.get('name'))[:100]!r} cannot be in an environment")
        env[name] = value
        if not credential.get("open"):
            values.append(value)
    git = [(str(login["base"]), str(login["header"])) for login in answer.get("git", ())]
    values += [header.rpartition(" ")[2] for _, header in git]
    return Drawn(env, values, git)
