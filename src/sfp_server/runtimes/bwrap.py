"""How bubblewrap is told to build a sandbox, as a pure function.

bubblewrap itself is started with an empty environment and reads these options from a descriptor: what
stands in its own argv or environment could be seen in the sandbox as /proc/1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

#: descriptors in the worker's outermost process
CONTROL, ARGUMENTS, SECCOMP, ETC, CODE, INFO, PREFIX, TOOLCHAIN = range(3, 11)

ROOT = "/workspace"
CODE_AT = "/sfp"
TOOLCHAIN_AT = "/toolchain"
SHM_BYTES = 64 * 1024 * 1024
#: the one user that exists inside
UID = 1000
HOSTNAME = "worker"
SHM, TMP, VAR_TMP = "/dev/shm", "/tmp", "/var/tmp"  # noqa: S108 (inside, where nobody else is)

#: top-level directories that are links into /usr on a merged system
MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")

#: what a sandbox runs: one worker, or a template that forks workers
_ENTRY = f"import sys; sys.path.insert(0, '{CODE_AT}'); from sfp_worker.%s import entry; entry()"
WORKER, TEMPLATE = _ENTRY % "supervisor", _ENTRY % "template"


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What of this machine a sandbox needs to know."""

    #: (name, target) of top-level links such as bin → usr/bin
    links: tuple[tuple[str, str], ...]
    #: top-level directories of the same kind that are real
    folders: tuple[str, ...]
    #: interpreter, as the sandbox sees it
    python: str
    #: where that interpreter lives, when it is not below /usr; passed as descriptor PREFIX
    prefix: str | None = None


def command(host: Host, entry: str) -> list[str]:
    """What runs inside. bubblewrap takes it from its own argv only; it tells nothing."""
    return ["--", host.python, "-I", "-S", "-X", "utf8", "-c", entry, "sandbox"]


def worker(host: Host, *, disk_bytes: int, toolchain: bool = False) -> list[str]:
    """The options of bubblewrap for one worker."""
    args = [*_walls(), "--seccomp", str(SECCOMP), "--info-fd", str(INFO), *_root(host, toolchain=toolchain)]
    args += ["--size", str(SHM_BYTES), "--perms", "1777", "--tmpfs", SHM, "--remount-ro", "/dev"]
    args += ["--size", str(disk_bytes), "--perms", "0700", "--tmpfs", ROOT]
    return [*args, *_end()]


def template(host: Host, *, toolchain: bool = False) -> list[str]:
    """The options of bubblewrap for a template: nothing is writable, and it may make namespaces.

    What a worker writes to (and its /proc) it mounts itself; the filter of system calls it loads itself.
    """
    return [*_walls(), *_root(host, toolchain=toolchain), "--remount-ro", "/dev", "--dir", ROOT, *_end()]


def _walls() -> list[str]:
    args = ["--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    args += ["--unshare-cgroup-try", "--uid", str(UID), "--gid", str(UID), "--hostname", HOSTNAME]
    return [*args, "--cap-drop", "ALL", "--new-session", "--die-with-parent", "--as-pid-1"]


def _root(host: Host, *, toolchain: bool) -> list[str]:
    args = ["--ro-bind", "/usr", "/usr"]
    for name, target in host.links:
        args += ["--symlink", target, f"/{name}"]
    for name in host.folders:
        args += ["--ro-bind", f"/{name}", f"/{name}"]
    if host.prefix is not None:
        args += ["--ro-bind-fd", str(PREFIX), host.prefix]
    args += ["--ro-bind-fd", str(ETC), "/etc", "--ro-bind-fd", str(CODE), CODE_AT]
    if toolchain:
        args += ["--ro-bind-fd", str(TOOLCHAIN), TOOLCHAIN_AT]
    return [*args, "--proc", "/proc", "--dev", "/dev"]


def _end() -> list[str]:
    args = ["--symlink", f"{ROOT[1:]}{TMP}", TMP, "--dir", "/run", "--dir", "/var"]
    return [*args, "--symlink", f"{ROOT}{TMP}", VAR_TMP, "--remount-ro", "/", "--chdir", ROOT]


def encoded(args: Sequence[str]) -> bytes:
    """As `--args` reads them."""
    return b"".join(arg.encode() + b"\0" for arg in args)
