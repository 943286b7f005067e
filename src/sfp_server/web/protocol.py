"""Limits below HTTP, for uvicorn: how large a request's head may be, and how slowly it may come.

uvicorn bounds neither with httptools. The edge has limits of its own; these hold without it.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sfp_server.web.headers import as_text, secured

#: bytes of the request line and all header fields
MAX_HEAD = 32 * 1024
#: seconds for the whole head, from the connection's or the request's first byte
HEAD_SECONDS = 20.0

_HEADERS = as_text([*secured([], []), (b"content-length", b"0"), (b"connection", b"close")]) + b"\r\n"
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\n" + _HEADERS
_MALFORMED = b"HTTP/1.1 400 Bad Request\r\n" + _HEADERS


class BoundedProtocol(HttpToolsProtocol):
    """One connection. A head that is too large gets 431; one that comes too slowly is cut."""

    def __init__(self, *values: Any, **named: Any) -> None:
        super().__init__(*values, **named)
        #: bytes of the present head that were parsed, and that came while it was unfinished
        self._parsed = 0
        self._received = 0
        self._refused = False
        #: runs while a head is awaited
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_here()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        super().data_received(data)
        if self._head_timer is not None:
            # The parser keeps an unfinished field to itself: only what came in tells its size.
            self._received += len(data)
        if max(self._received, self._parsed) > MAX_HEAD and not self.transport.is_closing():
            self._refused = True
            self._head_is_here()
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 (uvicorn's)
        """What is no HTTP; uvicorn's own answer has none of the headers that every answer should have."""
        self.transport.write(_MALFORMED)
        self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._parsed = 0
        if self._head_timer is None:
            self._await_head()

    def on_url(self, url: bytes) -> None:
        self._parsed += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._parsed += len(name) + len(value) + 4
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._parsed <= MAX_HEAD:
            self._head_is_here()
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self._parsed <= MAX_HEAD:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._parsed <= MAX_HEAD:
            super().on_message_complete()

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._cut)

    def _head_is_here(self) -> None:
        self._received = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _cut(self) -> None:
        self._head_timer = None
        self.transport.close()
