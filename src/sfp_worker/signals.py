"""The few signals we use, without the enumerations (and the 6 ms) that `import signal` brings along."""

from __future__ import annotations

TYPE_CHECKING = False  # typing costs more to import than all of this package
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_c: Any = __import__("_signal")  # typeshed does not know it

SIGCHLD: int = _c.SIGCHLD
SIGKILL: int = _c.SIGKILL
SIGTERM: int = _c.SIGTERM
SIGPIPE: int = _c.SIGPIPE
SIGXFSZ: int = _c.SIGXFSZ
SIG_DFL: int = _c.SIG_DFL

handle: Callable[[int, object], object] = _c.signal
set_wakeup_fd: Callable[..., int] = _c.set_wakeup_fd
