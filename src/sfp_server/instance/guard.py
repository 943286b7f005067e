"""Who watches supervisord: `python -I -S guard.py DIRECTORY`, itself one of supervisord's programs.

When supervisord dies other than by an orderly stop (which ends this process first), the guard starts the
instance again: `start` ends what was left running and brings everything back. Killed alone, the guard is
restarted by supervisord; so no single process can take the instance down for good.

Standard library only: it waits for years and should weigh little.
"""

import os
import select
import sys
from pathlib import Path


def main(directory: str) -> None:
    watched = os.getppid()
    pid_file = Path(directory) / "run" / "supervisord.pid"
    if _number(pid_file) == watched:
        descriptor = os.pidfd_open(watched)
        select.select([descriptor], [], [])  # readable when the process has ended
    log = os.open(Path(directory) / "logs" / "guard.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(log, 1)  # our pipes led to the dead supervisord
    os.dup2(log, 2)
    os.execv(sys.executable, [sys.executable, "-I", "-m", "sfp_server.instance.revive", directory])  # noqa: S606


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


if __name__ == "__main__":
    main(sys.argv[1])
