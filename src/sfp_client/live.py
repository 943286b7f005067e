"""Follow a channel of the event log: each event once, in order, however often the connection breaks.

Over WebSocket; where one cannot be had (a proxy that does not speak it) by asking page after page, with the
server holding the answer back until there is news. The number of the last event seen is all the state there is.
"""

import json
import random
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sfp_client.errors import ApiError, ClientError, NotFound, NotSignedIn, TimedOut, Unreachable, error_for
from sfp_client.transport import PREFIX, Transport, require_token

if TYPE_CHECKING:  # imported by who follows, when it follows: start-up time
    from websockets.sync.client import ClientConnection

SUBPROTOCOL = "sfp.v1"
#: seconds without any contact after which following gives up
PATIENCE = 60.0
#: seconds: pauses between tries grow from the first to the second
PAUSES = (0.1, 5.0)
#: seconds that the server may hold back the answer to a page
HOLD = 20.0
#: seconds to wait ourselves when the answer was not held back
NOT_HELD = 0.2
#: events in one page
PAGE = 200
#: close codes
NOT_SIGNED_IN, NOT_ALLOWED = 4001, 4003
#: seconds between losing a channel and being closed, at most
GONE_AND_CLOSED = 2
#: what an `error` message means, as HTTP status
_ERROR_STATUS = {"not_found": 404, "forbidden": 403, "unauthenticated": 401}
#: `error` messages that mean: not now
_NOT_NOW = frozenset({"unavailable", "too_many_requests"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One entry of the log; `seq` rises by one per channel, `at` is ISO 8601 UTC."""

    channel: str
    seq: int
    event: str
    at: str
    data: dict[str, Any]


class _Broken(Exception):
    """The connection ended or never was; try again."""


class _NoWebSocket(Exception):
    """Something in between does not speak WebSocket; read pages."""


class Follower:
    """Follows one channel. Iterate over it; it ends only by an error or when the caller stops."""

    def __init__(
        self,
        transport: Transport,
        channel: str,
        *,
        after: int | None = None,
        deadline: float | None = None,
    ) -> None:
        """Make a follower; nothing is sent before it is iterated over.

        Args:
            after: number of the last event already known; None: from now on.
            deadline: on the monotonic clock; TimedOut is raised then.
        """
        self._transport = transport
        self._channel = channel
        self._last = after
        self._deadline = deadline
        self._contact = time.monotonic()
        self._pages = False
        self._failures = 0
        self._renewed = False
        self._gaps = 0

    def __iter__(self) -> Iterator[Event]:
        """The events after the last known one, without end.

        Raises:
            TimedOut: the deadline has come.
            NotFound, NotAllowed, NotSignedIn: the channel is not the caller's to see (any more).
            Unreachable: no contact for a minute.
        """
        while True:
            source = self._from_pages() if self._pages else self._from_websocket()
            try:
                for event in source:
                    self._touch()
                    if self._is_next(event):
                        self._last = event.seq
                        yield event
            except _NoWebSocket:
                self._pages = True
            except _Broken as error:
                self._pause(error)
            finally:
                source.close()

    def _is_next(self, event: Event) -> bool:
        """Whether this is the event after the last one; a hole means that the connection lost something."""
        if self._last is not None and event.seq <= self._last:
            return False
        if self._last is not None and event.seq > self._last + 1:
            self._gaps += 1
            if self._gaps > 3:
                raise ClientError(f"the server skips events of {self._channel} after number {self._last}")
            raise _Broken(f"event {event.seq} came after {self._last}")
        self._gaps = 0
        return True

    def _touch(self) -> None:
        self._contact = time.monotonic()
        self._failures = 0
        self._renewed = False

    def _pause(self, error: Exception) -> None:
        """Wait a little longer each time. Raises Unreachable after `PATIENCE`, TimedOut at the deadline."""
        first, longest = PAUSES
        pause = random.uniform(0.5, 1) * min(first * 2**self._failures, longest)  # noqa: S311 (spreads load)
        self._failures += 1
        if time.monotonic() - self._contact + pause > PATIENCE:
            raise Unreachable(f"lost {self._transport.url}: {error}") from error
        time.sleep(min(pause, self._remaining(pause)))

    def _remaining(self, otherwise: float) -> float:
        """Seconds to the deadline. Raises TimedOut."""
        if self._deadline is None:
            return otherwise
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimedOut(f"timed out waiting on {self._channel}")
        return left

    # ------------------------------------------------------------------------------------- WebSocket

    def _from_websocket(self) -> Generator[Event]:
        from websockets.exceptions import ConnectionClosed

        token = require_token(self._transport)
        connection = self._connect(token)
        try:
            with connection:
                connection.send(json.dumps({"type": "subscribe", "channel": self._channel, "after": self._last}))
                while True:
                    message = _message(connection.recv(timeout=self._remaining(3600.0)))
                    if message.get("type") == "gone":
                        with suppress(TimeoutError):
                            connection.recv(timeout=GONE_AND_CLOSED)  # its close code says why
                        raise NotFound(f"{self._channel} can no longer be seen", status=404, code="gone")
                    yield from self._read(message)
        except TimeoutError:
            self._remaining(0)
            raise _Broken("nothing heard for an hour") from None
        except ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd else None
            if code == NOT_SIGNED_IN:
                self._rejected(token)
            if code == NOT_ALLOWED:
                raise _no_right() from closed
            raise _Broken(f"the live connection ended ({closed})") from closed

    def _connect(self, token: str) -> "ClientConnection":
        from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus
        from websockets.sync.client import connect
        from websockets.typing import Subprotocol

        address = "ws" + self._transport.url.removeprefix("http") + PREFIX + "/realtime"
        try:
            return connect(
                address,
                ssl=self._transport.ssl,
                subprotocols=[Subprotocol(SUBPROTOCOL)],
                additional_headers=self._transport.headers(token),
                open_timeout=self._remaining(10),
                close_timeout=1,
                ping_interval=20,
                max_size=16 * 1024 * 1024,
                proxy=None if self._transport.is_local else True,
            )
        except InvalidStatus as error:
            raise self._refused(error.response.status_code, token) from error
        except InvalidHandshake as error:
            if isinstance(error, InvalidMessage) and isinstance(error.__cause__, EOFError | OSError):
                raise _Broken("the server hung up") from error  # it died, which is not the same as not speaking it
            raise _NoWebSocket(str(error)) from error
        except (OSError, EOFError, ConnectionClosed) as error:  # also: TLS, name not known, timed out, cut while asking
            raise _Broken(str(error) or type(error).__name__) from error

    def _refused(self, status: int, token: str) -> Exception:
        """What an HTTP answer instead of a WebSocket means."""
        if status == 401:
            self._rejected(token)
        if status in {401, 429, 500, 502, 503, 504}:
            return _Broken(f"the server answered {status}")
        if status == 403:
            return _no_right()
        return _NoWebSocket(f"the server answered {status}")

    def _rejected(self, token: str) -> None:
        """Renew a token that was not taken, once. Raises NotSignedIn."""
        source = self._transport.source
        if self._renewed or source is None or not source.renew(token):
            raise NotSignedIn("the token is not taken (any more)", status=401, code="unauthenticated")
        self._renewed = True

    def _read(self, message: dict[str, Any]) -> Generator[Event]:
        kind = message.get("type")
        if kind == "event" and message.get("channel") == self._channel:
            yield event_of(message)
        elif kind == "subscribed":
            self._touch()
            if self._last is None:
                self._last = int(message["seq"])
        elif kind == "error":
            code = str(message.get("code", "error"))
            if code in _NOT_NOW:
                raise _Broken(str(message.get("message", code)))
            status = _ERROR_STATUS.get(code, 400)
            raise error_for(status)(str(message.get("message", code)), status=status, code=code)

    # ----------------------------------------------------------------------------------------- pages

    def _from_pages(self) -> Generator[Event]:
        if self._last is None:
            self._last = self._newest()
        while True:
            hold = min(HOLD, self._remaining(HOLD))
            asked = time.monotonic()
            page = self._page(self._last, wait=hold)
            self._touch()
            yield from (event_of(item) for item in page["items"])
            if not page["items"] and time.monotonic() - asked < hold / 2:
                time.sleep(min(NOT_HELD, self._remaining(NOT_HELD)))

    def _newest(self) -> int:
        """The number of the newest event: pages know no "from now on", so read to the end without telling."""
        newest = 0
        while items := self._page(newest, wait=None)["items"]:
            newest = int(items[-1]["seq"])
        return newest

    def _page(self, after: int, *, wait: float | None) -> dict[str, Any]:
        params = {"channel": self._channel, "after": after, "limit": PAGE, "wait": wait}
        try:
            return self._transport.json("GET", "/events", params=params, patient=False)  # we try again
        except Unreachable as error:
            raise _Broken(str(error)) from error
        except ApiError as error:
            if error.status in {429, 503}:
                raise _Broken(str(error)) from error
            raise


def _message(text: str | bytes) -> dict[str, Any]:
    try:
        return json.loads(text)
    except ValueError as error:
        raise _Broken("a message was not JSON") from error


def _no_right() -> ApiError:
    return error_for(403)("not allowed to follow events", status=403, code="forbidden")


def event_of(message: dict[str, Any]) -> Event:
    """The event that a message or an item of a page tells."""
    return Event(
        channel=str(message["channel"]),
        seq=int(message["seq"]),
        event=str(message["event"]),
        at=str(message["at"]),
        data=message.get("data") or {},
    )
