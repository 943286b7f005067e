"""Start one service with only what it needs: `python -I -S launch.py DIRECTORY SERVICE [PROCESS]`.

Reads `DIRECTORY/services.json`, takes rights away (no core dumps, private files, no new privileges, no
capabilities, an environment of exactly the listed variables) and replaces itself by the program, so that
supervisord's signals reach the program itself.

PostgreSQL refuses to run as root, and as a user without an account (a container with an arbitrary user
number). It then gets a user namespace in which we are called `nobody`: its files stay private to us, and no
operating-system account has to be made.

Standard library only and quick to import: it runs at every start of every service.
"""

import ctypes
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

CLONE_NEWUSER = 0x10000000
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
NOBODY = 65534
CAPABILITIES = {"NET_BIND_SERVICE": 10}
#: a start this soon (seconds) after the previous one counts as a crash loop
QUICK = 10.0


def main(directory: str, name: str, process: str | None = None) -> None:
    """Become the service; `process` tells its processes apart where it has several."""
    place = Path(directory)
    service = json.loads((place / "services.json").read_text())[name]
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold secrets
    pause(place / "run" / "starts" / (process or name))
    libc = ctypes.CDLL(None, use_errno=True)
    is_root = os.geteuid() == 0
    if service["unprivileged_user"] and (is_root or not _has_account()):
        become_nobody(libc)
    if is_root:
        drop_capabilities(libc, service["capabilities"])
    _checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    argv: list[str] = service["argv"]
    os.execve(argv[0], argv, service["env"])  # noqa: S606 (no shell is the point)


def pause(marker: Path) -> None:
    """Wait a little when this service has just been started, up to 3 s; never give up.

    supervisord's own delay grows without end and then it stops trying; an instance must heal within
    seconds however long its disk was full. The number of quick starts is kept in `marker` for `status`.
    """
    now = time.time()
    try:
        quick = int(marker.read_text() or 0) + 1 if now - marker.stat().st_mtime < QUICK else 0
    except (OSError, ValueError):
        quick = 0
    time.sleep(min(0.5 * max(quick - 1, 0), 3.0))  # the first restart is immediate
    try:
        marker.parent.mkdir(mode=0o700, exist_ok=True)
        marker.write_text(str(quick))
    except OSError:  # a full disk must not keep a service down
        return


def _has_account() -> bool:
    import pwd

    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return True


def become_nobody(libc: Any) -> None:  # a ctypes library has no static type
    """Enter a user namespace in which our user is called nobody. Exits with a clear sentence when refused."""
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(CLONE_NEWUSER) != 0:
        sys.exit(
            "this machine refuses user namespaces, and PostgreSQL refuses to run as root or without an account: "
            "run the instance as an ordinary user or set DATABASE_URL"
        )
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{NOBODY} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{NOBODY} {group} 1")


def drop_capabilities(libc: Any, keep: list[str] | None) -> None:  # a ctypes library has no static type
    """Root without capabilities can only do what the owner of its files can. None keeps all."""
    if keep is None:
        return
    kept = {CAPABILITIES[name] for name in keep}
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for number in range(last + 1):
        if number not in kept:
            _checked(libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0), "capabilities")


def _checked(status: int, what: str) -> None:
    if status != 0:
        sys.exit(f"{what}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    main(*sys.argv[1:])
