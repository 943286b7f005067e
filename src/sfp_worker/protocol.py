"""Frames between a worker and its runtime, over one unix stream socket. Shared with the server.

A frame is `length (u32, big-endian) | kind (u8) | body`. A JSON frame is one message, an object whose
`t` names it; a CHUNK frame carries bytes of the artifact announced last.

    worker → server   ready · log {lines: [[stream, text, at]…]} · progress {percent, text} ·
                      artifact {name} CHUNK… artifact_end · dial {id, host, port, step} ·
                      exit {code, signal, failure: [code, message]|null, output, has_output, usage}
    server → worker   job {…} · terminate · dialled {id, errno, own} (with the connected socket)

Descriptors travel as SCM_RIGHTS on the first byte of a frame whose message says how many (`fds`).
The server never accepts any.
"""

from __future__ import annotations

import struct

from sfp_worker import wire

TYPE_CHECKING = False  # typing costs more to import than all of this package
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    Message = dict[str, Any]
else:
    Message = dict

HEADER = struct.Struct("!IB")
JSON = 0
CHUNK = 1

#: bytes of one frame's body; a job with its files, or a result, must fit
MAX_FRAME = 16 * 1024 * 1024
#: bytes of one artifact chunk
CHUNK_BYTES = 256 * 1024
#: exit status of a supervisor whose program never ran or whose end is not the program's own
NEVER_RAN = 125
#: bytes of a line before it is cut in pieces
MAX_LINE = 16 * 1024
#: bytes that a line costs of the output limit beside its own: it becomes an event, a row, and traffic
LINE_COST = 64
#: characters of a progress text
MAX_PROGRESS_TEXT = 200
#: bytes of the file named by SFP_RESULT
MAX_RESULT = 1024 * 1024
#: nesting of the result
MAX_RESULT_DEPTH = 64
#: kept files of one attempt
MAX_ARTIFACTS = 1000
#: connects that one worker may have under way
MAX_DIALS = 64


class ProtocolError(Exception):
    """The other side sent something that is not a frame."""


def encode(message: Message) -> bytes:
    """One JSON frame. Lone surrogates become `?`."""
    data = wire.dumps(message).encode("utf-8", "replace")
    return HEADER.pack(len(data), JSON) + data


def encode_chunk(data: bytes) -> bytes:
    return HEADER.pack(len(data), CHUNK) + data


def exit_status(*, code: int | None, signal: int | None) -> int:
    """The exit status with which a supervisor vouches for what its `exit` message says."""
    if signal is not None:
        return 128 + signal
    return NEVER_RAN if code is None else code


class FrameReader:
    """Cuts a byte stream into frames."""

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Message | bytes]:
        """The frames completed by `data`: messages, or the bytes of a chunk.

        Raises:
            ProtocolError: a frame is too long, of an unknown kind, or not a JSON object with a `t`.
        """
        self._buffer += data
        while len(self._buffer) >= HEADER.size:
            length, kind = HEADER.unpack_from(self._buffer)
            if length > self._limit or kind not in {JSON, CHUNK}:
                raise ProtocolError("bad frame header")
            end = HEADER.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[HEADER.size : end])
            del self._buffer[:end]
            yield body if kind == CHUNK else _message(body)


def _message(body: bytes) -> Message:
    try:
        message: Any = wire.loads(body.decode())
    except (ValueError, RecursionError) as error:
        raise ProtocolError("a frame is not JSON") from error
    if not isinstance(message, dict) or not isinstance(message.get("t"), str):  # pyright: ignore[reportUnknownMemberType] (JSON of unknown shape)
        raise ProtocolError("a frame is not a message")
    return message  # pyright: ignore[reportUnknownVariableType] (checked by whoever takes it)
