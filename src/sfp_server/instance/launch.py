"""Start one service with only what it needs: `python -I -S launch.py DIRECTORY SERVICE [PROCESS]`.

Reads `DIRECTORY/services.json`, takes rights away (no core dumps, private files, no new privileges, no
capabilities, an environment of exactly the listed variables, of the secret files only its own) and replaces
itself by the program, so that supervisord's signals reach the program itself.

Two walls part the services of one instance (docs/decisions/0022-own-users.md):

* A mount namespace: in it, `secrets` holds the service's own files only, and what belongs to another service (the
  database's files, supervisord's socket) is empty.
* When we are root, a user of its own: a number that no account has. The instance's directory is mounted over itself
  with root's files shown as that user's ("idmapped"), so nothing on the disk changes hands. Where the kernel or the
  file system cannot do that, the service runs as root without capabilities, and `doctor --security` says so.

PostgreSQL refuses to run as root, and as a user without an account. It gets a user namespace in which we are called
`nobody`: its files stay private to us, and no operating-system account has to be made.

Standard library only and quick to import: it runs at every start of every service.
"""

import ctypes
import json
import os
import resource
import struct
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 32, 1 << 14, 1 << 18
SYS_OPEN_TREE, SYS_MOVE_MOUNT, SYS_MOUNT_SETATTR = 428, 429, 442  # the same on every machine
AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE, OPEN_TREE_CLONE, MOVE_MOUNT_F_EMPTY_PATH = -100, 0x1000, 0x8000, 1, 4
MOUNT_ATTR_RDONLY, MOUNT_ATTR_IDMAP = 1, 0x00100000
PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 4, 8, 24, 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 47, 2
CAPABILITY_VERSION_3 = 0x20080522
NOBODY = 65534
CAPABILITIES = {"NET_BIND_SERVICE": 10, "SYS_ADMIN": 21}
#: a start this soon (seconds) after the previous one counts as a crash loop
QUICK = 10.0


def main(directory: str, name: str, process: str | None = None) -> None:
    """Become the service; `process` tells its processes apart where it has several."""
    place = Path(directory)
    service = json.loads((place / "services.json").read_text())[name]
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold secrets
    with suppress(OSError):  # only root may ask for more than its parent has
        Path("/proc/self/oom_score_adj").write_text(str(service["oom_score"]))
    pause(place / "run" / "starts" / (process or name))
    libc = ctypes.CDLL(None, use_errno=True)
    is_root = os.geteuid() == 0
    if is_root and service["user"] is not None and try_own_user(libc, place, service):
        become_own_user(libc, place, service)
    else:
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


def try_own_user(libc: Any, place: Path, service: dict[str, Any]) -> bool:
    """Whether the service could live as its own user, tried out in a child: what fails there leaves no trace here."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            become_own_user(libc, place, service)
            needed = [(Path(service["argv"][0]), os.X_OK), *((Path(path), os.R_OK) for path in service["reach"])]
            needed += [(Path(path), os.W_OK) for path in service["writes"]]
            needed += [(place, os.R_OK | os.W_OK | os.X_OK), (place / "run", os.W_OK), (place / "config.json", os.R_OK)]
            code = 0 if all(os.access(path, mode) for path, mode in needed if path.exists()) else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def become_own_user(libc: Any, place: Path, service: dict[str, Any]) -> None:
    """From root to the service's own user, with its own view of the instance. Raises OSError, SystemExit."""
    user: int = service["user"]
    _checked(libc.unshare(CLONE_NEWNS), "mount namespace")
    _checked(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "mount namespace")
    mount_as_own(libc, place, user, reach=map(Path, service["reach"]), writes=map(Path, service["writes"]))
    conceal(libc, place, service["hidden"], service["secrets"], owner=user)
    os.chdir(place)  # where we stood before still shows the files as root's
    needs_name = service["unprivileged_user"]
    keep = [CAPABILITIES[name] for name in [*service["capabilities"], *(["SYS_ADMIN"] if needs_name else [])]]
    switch_user(libc, user, keep)
    if needs_name:
        _checked(0 if enter_user_namespace(libc, called=NOBODY) else -1, "user namespace")
        drop_capabilities(libc, [])


def mount_as_own(libc: Any, place: Path, user: int, *, reach: Iterable[Path], writes: Iterable[Path]) -> None:
    """Mount the instance's directories and `writes` over themselves with root's files as `user`'s; `reach` read-only.

    A parent that `user` could not enter is covered by an empty directory with nothing in it but the way there.
    """
    wanted = {path.resolve(): MOUNT_ATTR_IDMAP for path in (place, place / "run", *writes) if path.exists()}
    for path in reach:
        if path.exists() and not is_public(path.resolve()):
            wanted.setdefault(path.resolve(), MOUNT_ATTR_IDMAP | MOUNT_ATTR_RDONLY)
    outer = sorted(path for path in wanted if not any(other in path.parents for other in wanted))
    mapping = _mapping(libc, user)
    trees = {path: _tree(libc, path, wanted[path], mapping) for path in outer}
    os.close(mapping)
    kinds = {path: path.is_dir() for path in outer}
    for closed in sorted({above for path in outer for above in path.parents if not above.stat().st_mode & 0o001}):
        if closed.stat().st_mode & 0o001:
            continue  # covered together with one above it
        covered = libc.mount(b"tmpfs", os.fsencode(closed), b"tmpfs", MS_NOSUID | MS_NODEV, b"mode=0711,size=256k")
        _checked(covered, "cover")
        for path in outer:
            if closed in path.parents:
                _make_way(closed, path, is_directory=kinds[path])
    for path, tree in trees.items():
        moved = libc.syscall(SYS_MOVE_MOUNT, tree, b"", AT_FDCWD, os.fsencode(path), MOVE_MOUNT_F_EMPTY_PATH)
        _checked(moved, "move_mount")
        os.close(tree)


def _tree(libc: Any, path: Path, attributes: int, mapping: int) -> int:
    """A copy of what is mounted at `path` and below, not yet anywhere, with root's files as the mapping says."""
    tree = libc.syscall(SYS_OPEN_TREE, AT_FDCWD, os.fsencode(path), OPEN_TREE_CLONE | AT_RECURSIVE | os.O_CLOEXEC)
    _checked(min(tree, 0), "open_tree")
    told = struct.pack("QQQQ", attributes, 0, 0, mapping)
    flags = AT_EMPTY_PATH | AT_RECURSIVE
    _checked(libc.syscall(SYS_MOUNT_SETATTR, tree, b"", flags, told, len(told)), "mount_setattr")
    return tree


def is_public(path: Path) -> bool:
    """True when everybody may read it, by its mode and those of all its parents."""
    wanted = 0o005 if path.is_dir() else 0o004
    return path.stat().st_mode & wanted == wanted and all(above.stat().st_mode & 0o001 for above in path.parents)


def _make_way(cover: Path, path: Path, *, is_directory: bool) -> None:
    """Empty directories from `cover` down to `path`, for everybody to pass, and something to mount on."""
    parents = [above for above in reversed(path.parents) if cover in above.parents]
    for folder in [*parents, *([path] if is_directory else [])]:
        folder.mkdir(exist_ok=True)
        folder.chmod(0o711)
    if not is_directory:
        path.touch()


def _mapping(libc: Any, user: int) -> int:
    """An open user namespace in which root stands for `user`: what the kernel takes as a table of numbers."""
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(done[1])
        os.write(ready[1], b"-" if libc.unshare(CLONE_NEWUSER) else b"+")
        os.read(done[0], 1)  # until our parent has it open
        os._exit(0)
    try:
        os.close(ready[1])
        if os.read(ready[0], 1) != b"+":
            raise OSError("user namespaces are refused")
        for kind in ("uid_map", "gid_map"):
            Path(f"/proc/{child}/{kind}").write_text(f"0 {user} 1")
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        for end in (ready[0], *done):
            os.close(end)
        os.waitpid(child, 0)


def switch_user(libc: Any, user: int, keep: list[int]) -> None:
    """Become `user`, for ever, with these capabilities and no others. Raises OSError, SystemExit."""
    _checked(libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0), "capabilities")
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for number in range(last + 1):
        if number not in keep:
            _checked(libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0), "capabilities")
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    mask = sum(1 << number for number in keep)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header = struct.pack("Ii", CAPABILITY_VERSION_3, 0)
    _checked(libc.capset(header, struct.pack("6I", low, low, low, high, high, high)), "capabilities")
    for number in keep:
        if number != CAPABILITIES["SYS_ADMIN"]:  # that one ends with the program that starts
            _checked(libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number, 0, 0), "capabilities")
    _checked(libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "dumpable")  # until then our own /proc is root's


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


def conceal(libc: Any, place: Path, hidden: list[str], own: list[str], *, owner: int | None = None) -> None:
    """Cover each hidden directory by an empty read-only one, and `secrets` by one with the service's own files."""
    secrets = place / "secrets"
    files = {name: (secrets / name).read_bytes() for name in own if (secrets / name).is_file()}
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    options = b"mode=0700,size=1m" + (b"" if owner is None else b",uid=%d,gid=%d" % (owner, owner))
    private = libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) == 0  # nothing of this shows outside
    for target in (secrets, *map(Path, hidden)) if private else ():
        path = os.fsencode(target.resolve())
        if not target.is_dir() or libc.mount(b"tmpfs", path, b"tmpfs", flags, options) != 0:
            continue
        for name, content in files.items() if target == secrets else ():
            (target / name).write_bytes(content)
            if owner is not None:
                os.chown(target / name, owner, owner)
        libc.mount(b"tmpfs", path, None, flags | MS_REMOUNT | MS_RDONLY, options)


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
