"""How often something may be done: at once when it is rare, in a steady rhythm when it is asked for all the time."""

import time
from collections.abc import Callable


class Pace:
    """Lets `at_once` turns pass, and then `per_second`: a full bucket of turns, filled again as time passes."""

    def __init__(self, *, at_once: int, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._at_once, self._per_second, self._clock = at_once, per_second, clock
        self._left: float = at_once
        self._seen = clock()

    def wait(self) -> float:
        """Take a turn; the seconds to wait before it."""
        now = self._clock()
        self._left = min(self._at_once, self._left + (now - self._seen) * self._per_second) - 1
        self._seen = now
        return max(0.0, -self._left / self._per_second)
