"""Start one service with only what it needs: `python -I -S launch.py DIRECTORY SERVICE [PROCESS]`.

Reads `DIRECTORY/services.json`, takes rights away (no core dumps, private files, no new privileges, no
capabilities, an environment of exactly the listed variables, of the secret files only its own) and replaces
itself by the program, so that supervisord's signals reach the program itself.

All services run as one user, so file permissions do not part them: a mount namespace does. In it, `secrets`
holds the service's own files only, and what belongs to another service (the database's files, supervisord's
socket) is empty.

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

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 32, 1 << 14, 1 << 18
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
    enter_namespaces(libc, place, service, is_root=is_root)
    if is_root:
        drop_capabilities(libc, service["capabilities"])
    _checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    argv: list[str] = service["argv"]
    handed_on = {name: os.environ[name] for name in service["inherit"] if name in os.environ}
    os.execve(argv[0], argv, {**service["env"], **handed_on})  # noqa: S606 (no shell is the point)


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


def enter_namespaces(libc: Any, place: Path, service: dict[str, Any], *, is_root: bool) -> None:
    """Where the machine allows it; `doctor` says when it does not. Exits when PostgreSQL could not run at all."""
    hidden: list[str] = service["hidden"]
    if service["unprivileged_user"] and (is_root or not _has_account()):
        if not enter_user_namespace(libc, called=NOBODY):
            sys.exit(
                "this machine refuses user namespaces, and PostgreSQL refuses to run as root or without an account: "
                "run the instance as an ordinary user or set DATABASE_URL"
            )
    elif not hidden or (not is_root and service["capabilities"] is None):
        return  # the dispatcher of an ordinary user makes its sandboxes in the machine's own user namespace
    elif not is_root and not enter_user_namespace(libc, called=os.geteuid()):
        return
    if hidden and libc.unshare(CLONE_NEWNS) == 0:
        conceal(libc, place, hidden, service["secrets"])


def enter_user_namespace(libc: Any, *, called: int) -> bool:
    """A namespace in which our user has the number `called`, and may mount. False when the machine refuses."""
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(CLONE_NEWUSER) != 0:
        return False
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{called} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{called if called == NOBODY else group} {group} 1")
    return True


def conceal(libc: Any, place: Path, hidden: list[str], own: list[str]) -> None:
    """Cover each hidden directory by an empty read-only one, and `secrets` by one with the service's own files."""
    secrets = place / "secrets"
    files = {name: (secrets / name).read_bytes() for name in own if (secrets / name).is_file()}
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    private = libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) == 0  # nothing of this shows outside
    for target in (secrets, *map(Path, hidden)) if private else ():
        path = os.fsencode(target.resolve())
        if not target.is_dir() or libc.mount(b"tmpfs", path, b"tmpfs", flags, b"mode=0700,size=1m") != 0:
            continue
        for name, content in files.items() if target == secrets else ():
            (target / name).write_bytes(content)
        libc.mount(b"tmpfs", path, None, flags | MS_REMOUNT | MS_RDONLY, b"mode=0700,size=1m")


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
