"""Where a request's token comes from, and how a sign-in is kept alive.

A refresh token works once; using it twice ends the whole sign-in. So whoever renews first takes the keeper's
lock, looks whether somebody else has renewed meanwhile, and stores the new pair before it lets go.
"""

import base64
import json
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, cast

from sfp_client.errors import NotSignedIn
from sfp_client.shapes import TokenPair

#: seconds before `exp` from which the server no longer takes a token (`auth.expiryBufferSeconds`)
EXPIRY_BUFFER = 300
#: seconds before that at which we renew
MARGIN = 30


class TokenSource(Protocol):
    """Gives the token of a request."""

    def token(self) -> str:
        """The token to send now. Raises NotSignedIn."""
        ...

    def renew(self, rejected: str) -> bool:
        """After a 401 for `rejected`: whether there is another token to try. Raises NotSignedIn."""
        ...


class FixedToken:
    """An application token, or a user token that somebody else keeps alive."""

    def __init__(self, token: str) -> None:
        self._token = token

    def token(self) -> str:
        return self._token

    def renew(self, rejected: str) -> bool:
        return rejected != self._token


class Keeper(Protocol):
    """Where the pair of a sign-in is kept."""

    def load(self) -> TokenPair | None: ...

    def save(self, pair: TokenPair) -> None: ...

    def exclusive(self) -> AbstractContextManager[None]:
        """Hold while renewing; no other thread or process that shares the pair renews meanwhile."""
        ...


class Memory:
    """Keeps the pair in this process only."""

    def __init__(self, pair: TokenPair) -> None:
        self._pair = pair
        self._lock = threading.Lock()

    def load(self) -> TokenPair | None:
        return self._pair

    def save(self, pair: TokenPair) -> None:
        self._pair = pair

    @contextmanager
    def exclusive(self) -> Generator[None]:
        with self._lock:
            yield


class SignIn:
    """A user's sign-in: renews its access token just before the server stops taking it, and after a 401."""

    def __init__(
        self, keeper: Keeper, exchange: Callable[[str], TokenPair], *, clock: Callable[[], float] = time.time
    ) -> None:
        """`exchange` turns a refresh token into a new pair, or raises NotSignedIn."""
        self._keeper = keeper
        self._exchange = exchange
        self._clock = clock

    def token(self) -> str:
        pair = self._pair()
        if usable_until(pair["access_token"]) - MARGIN > self._clock():
            return pair["access_token"]
        self.renew(pair["access_token"])
        return self._pair()["access_token"]

    def renew(self, rejected: str) -> bool:
        with self._keeper.exclusive():
            pair = self._pair()
            if pair["access_token"] != rejected:
                return True  # somebody else renewed while we waited
            self._keeper.save(self._exchange(pair["refresh_token"]))
        return True

    def _pair(self) -> TokenPair:
        pair = self._keeper.load()
        if pair is None:
            raise NotSignedIn("not signed in", status=401, code="unauthenticated")
        return pair


def usable_until(token: str) -> float:
    """Epoch seconds until which the server takes a user token; far away when the token does not say.

    The signature is not checked: this is about when to renew, the server judges the token.
    """
    claims = _claims(token)
    expires = claims.get("exp")
    issued = claims.get("iat")
    if not isinstance(expires, int | float):
        return float("inf")
    life = expires - issued if isinstance(issued, int | float) else float("inf")
    # a life shorter than the buffer: the server must have a smaller one; a 401 will tell
    return expires - (EXPIRY_BUFFER if life > EXPIRY_BUFFER + 2 * MARGIN else -MARGIN)


def _claims(token: str) -> dict[str, Any]:
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return {}
    return cast("dict[str, Any]", claims) if isinstance(claims, dict) else {}
