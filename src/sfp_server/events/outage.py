"""A part that is away is told in the log when it goes and when it comes back, not at every try in between."""

import structlog

_log = structlog.get_logger(__name__)


class Outage:
    """Remembers whether `part` is away; `consequence` says what that means to users."""

    def __init__(self, part: str, consequence: str) -> None:
        self._part, self._consequence = part, consequence
        self._is_away = False

    def began(self, error: BaseException) -> None:
        if not self._is_away:
            _log.warning("a part is away", part=self._part, consequence=self._consequence, error=type(error).__name__)
        self._is_away = True

    def over(self) -> None:
        if self._is_away:
            _log.info("a part is back", part=self._part)
        self._is_away = False
