"""The keys that sign user tokens: several at once, so that replacing one signs nobody out.

Each is a file `<Unix time of its making>.pem` in the instance's `signing/`, which only API processes see. The newest
signs. The others go on verifying until the last token that they signed has died, and are then ignored (`keys rotate`
and `start` remove their files). Every process looks at the directory again once a second at most, when it is asked
something: no restart, and nothing to be told.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from sfp_server.settings import SettingsError

#: seconds between two looks at the directory
_LOOK = 1.0
#: seconds beyond its last token for which a key is kept: clocks differ
_MARGIN = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """One of them. `kid` is the thumbprint of its public half."""

    kid: str
    #: Unix time
    made_at: int
    key: ECKey = field(repr=False)


class KeySet:
    """The keys of one directory.

    Args:
        life: seconds that a token lives: so long a key is needed after its successor was made.
        clock, ticks: Unix time, and monotonic seconds.
    """

    def __init__(
        self,
        directory: Path,
        *,
        life: int,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises SettingsError: there is no key."""
        self._directory = directory
        self._life = life
        self._clock = clock
        self._ticks = ticks
        self._looked_at = float("-inf")
        self._seen: list[Path] = []
        self._keys: tuple[SigningKey, ...] = ()
        if not self.live():
            raise SettingsError("there is no key in signing/: restore it, or make one with `keys rotate`")

    def current(self) -> SigningKey:
        """The one that signs."""
        return self.live()[-1]

    def find(self, kid: object) -> SigningKey | None:
        """The key that a token names, if it is one of ours and still counts."""
        return next((key for key in self.live() if key.kid == kid), None)

    def live(self) -> list[SigningKey]:
        """Those that count now, oldest first."""
        self._look()
        counts = needed([key.made_at for key in self._keys], self._life, self._clock())
        return [key for key, is_needed in zip(self._keys, counts, strict=True) if is_needed]

    def _look(self) -> None:
        """Read the directory when it has changed. What cannot be read for a moment leaves the keys as they were."""
        if self._ticks() - self._looked_at < _LOOK:
            return
        self._looked_at = self._ticks()
        try:
            seen = files(self._directory)
            if seen == self._seen:
                return
            keys = tuple(_read(path) for path in seen)
        except (OSError, ValueError, JoseError):
            return
        if keys:
            self._seen, self._keys = seen, keys


def needed(made_at: list[int], life: int, now: float) -> list[bool]:
    """Which keys of these times, oldest first, still count: the newest, and whose successor is younger than a token."""
    successors = [*made_at[1:], float("inf")][: len(made_at)]
    return [now < successor + life + _MARGIN for successor in successors]


def files(directory: Path) -> list[Path]:
    """The key files of a directory, oldest first."""
    found = [path for path in directory.iterdir() if path.suffix == ".pem" and path.stem.isdigit()]
    return sorted(found, key=lambda path: int(path.stem))


def new_key() -> str:
    """PEM of a fresh private key."""
    private = generate_private_key(SECP256R1())
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _read(path: Path) -> SigningKey:
    key = ECKey.import_key(path.read_text())
    return SigningKey(kid=key.thumbprint(), made_at=int(path.stem), key=key)
