"""Draws the attempt's credentials: the ticket goes to the broker once, the values come back once."""

import json
import os
import socket
from typing import Any

from sfp_worker.failure import Failed

#: bytes of the broker's answer
MAX_ANSWER = 4 * 1024 * 1024
#: seconds until the broker must have answered
PATIENCE_SECONDS = 30.0


class Drawn:
    """What the program gets, and what must never be seen elsewhere."""

    def __init__(self, env: dict[str, str], values: list[str]) -> None:
        self.env = env
        self.values = values


NOTHING = Drawn({}, [])


def draw(descriptor: int, ticket: str) -> Drawn:
    """Redeem `ticket` over the connected socket, which is closed afterwards.

    Raises:
        Failed: `credential`; says which, never its value.
    """
    with socket.socket(fileno=descriptor) as broker:
        broker.settimeout(PATIENCE_SECONDS)
        try:
            broker.sendall(json.dumps({"ticket": ticket}).encode() + b"\n")
            line = _line(broker)
        except OSError as error:
            raise Failed("credential", "the credential broker did not answer") from error
    try:
        return _parse(json.loads(line))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        # Without the cause: it may quote the answer.
        raise Failed("credential", "the credential broker answered something unknown") from None


def _line(broker: socket.socket) -> bytes:
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
    for credential in answer["credentials"]:
        name, value = credential["env"], credential["value"]
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError
        if not name or "=" in name or "\0" in name + value:
            raise Failed("credential", f"credential {str(credential.get('name'))[:100]!r} cannot be in an environment")
        env[name] = value
    return Drawn(env, list(env.values()))


def close_unused(descriptor: int) -> None:
    os.close(descriptor)
