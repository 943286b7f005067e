"""The read-only files that a sandbox sees beside /usr: a small /etc of its own and the worker's code.

Composed once per runtime, in a private directory, and mounted from open descriptors: two mounts instead
of twenty, and the host's own /etc (with whatever secrets lie there) is not in the sandbox at all.
"""

import asyncio
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import sfp_worker
from sfp_server.runtimes import bwrap
from sfp_server.runtimes.base import RuntimeUnavailable

#: taken over from the host when there: what programs in /usr need, and nothing that could hold a secret
_COPIED = (
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "alternatives",
    "localtime",
    "timezone",
    "os-release",
    "debian_version",
    "mime.types",
    "services",
    "protocols",
    "gai.conf",
    "terminfo",
    "ssl/certs",
    "ssl/openssl.cnf",
    "ca-certificates",
    "pki/tls/certs",
    "pki/ca-trust/extracted",
    "java-17-openjdk",
    "java-21-openjdk",
    "fonts",
)
CA_BUNDLE = "ssl/certs/ca-certificates.crt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """Open descriptors of the composed directories, and what the sandbox's interpreter is."""

    folder: Path
    etc: int
    code: int
    host: bwrap.Host
    #: the interpreter's home, when it is not below /usr
    prefix: int | None

    def close(self) -> None:
        for descriptor in (self.etc, self.code, self.prefix):
            if descriptor is not None:
                os.close(descriptor)
        shutil.rmtree(self.folder, ignore_errors=True)


async def compose(folder: Path, *, extra_ca_file: Path | None) -> Image:
    """Make the files below `folder`, which is ours and empty.

    Raises:
        RuntimeUnavailable: no interpreter of this machine can run a worker.
    """
    folder.chmod(0o755)
    etc = asyncio.to_thread(_make_etc, folder / "etc", extra_ca_file)
    python, _ = await asyncio.gather(interpreter(), etc)
    await copy_code(folder / "code", python)
    prefix = None if python.is_relative_to("/usr") else _prefix(python)
    links = tuple((name, str(Path(f"/{name}").readlink())) for name in bwrap.MERGED if Path(f"/{name}").is_symlink())
    real = tuple(name for name in bwrap.MERGED if Path(f"/{name}").is_dir() and not Path(f"/{name}").is_symlink())
    host = bwrap.Host(links=links, folders=real, python=str(python), prefix=None if prefix is None else str(prefix))
    return Image(
        folder=folder,
        etc=_open(folder / "etc"),
        code=_open(folder / "code"),
        host=host,
        prefix=None if prefix is None else _open(prefix),
    )


async def interpreter() -> Path:
    """A Python ≥ 3.11 for the worker, the system's own before ours."""
    own = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    for candidate in (Path("/usr/bin/python3"), Path("/usr/local/bin/python3"), own):
        check = "import sys, ctypes, socket, json; raise SystemExit(sys.version_info < (3, 11))"
        if candidate.exists() and await run_quietly(str(candidate), "-I", "-S", "-c", check) == 0:
            return candidate
    raise RuntimeUnavailable("no Python 3.11 or newer that a worker could use")


async def run_quietly(*argv: str) -> int:
    """Run a helper with an empty environment; its exit code."""
    null = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*argv, env={}, stdin=null, stdout=null, stderr=null)
    return await process.wait()


def _prefix(python: Path) -> Path:
    return python.resolve().parent.parent


def _open(path: Path) -> int:
    return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


async def copy_code(folder: Path, python: Path) -> None:
    """The worker's code, compiled for the interpreter that will run it."""
    source = Path(sfp_worker.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__")
    await asyncio.to_thread(shutil.copytree, source, folder / "sfp_worker", ignore=ignored)
    await run_quietly(str(python), "-I", "-S", "-m", "compileall", "-q", str(folder))
    await asyncio.to_thread(_open_up, folder)


def _make_etc(etc: Path, extra_ca_file: Path | None) -> None:
    etc.mkdir(parents=True)
    for name in _COPIED:
        _copy(Path("/etc") / name, etc / name)
    home = f"{bwrap.ROOT}/home"
    files = {
        "passwd": f"worker:x:{bwrap.UID}:{bwrap.UID}:worker:{home}:/bin/sh\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
        "group": f"worker:x:{bwrap.UID}:\nnogroup:x:65534:\n",
        "hosts": f"127.0.0.1 localhost {bwrap.HOSTNAME}\n::1 localhost\n",
        "hostname": f"{bwrap.HOSTNAME}\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
        "host.conf": "multi on\n",
        "resolv.conf": resolv_conf(nameservers()),
    }
    for name, text in files.items():
        (etc / name).write_text(text, encoding="utf-8")
    if extra_ca_file is not None:
        _append(etc / CA_BUNDLE, extra_ca_file)
    _open_up(etc)


def _copy(source: Path, target: Path) -> None:
    """Copy what may be read; links stay links (into /usr, which is there too)."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, ignore_dangling_symlinks=True, ignore=_unreadable)
        elif source.is_symlink():
            target.symlink_to(source.readlink())
        elif source.exists():
            shutil.copy(source, target)
    except (OSError, shutil.Error):
        return  # a nicety that the host keeps to itself


def _unreadable(folder: str, names: list[str]) -> list[str]:
    """What not everybody on the host may read is not copied: root's dispatcher must not show it."""
    return [name for name in names if not (Path(folder) / name).lstat().st_mode & 0o004]


def _append(bundle: Path, extra: Path) -> None:
    text = bundle.read_text(encoding="utf-8") if bundle.exists() else ""
    if bundle.is_symlink():
        bundle.unlink()
    bundle.parent.mkdir(parents=True, exist_ok=True)
    bundle.write_text(text.rstrip("\n") + "\n" + extra.read_text(encoding="utf-8"), encoding="utf-8")


def _open_up(folder: Path) -> None:
    """Readable for the unprivileged user that the worker is on the host."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)


def nameservers() -> list[str]:
    """The host's nameservers."""
    try:
        lines = Path("/etc/resolv.conf").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [line.split()[1] for line in lines if line.startswith("nameserver") and len(line.split()) > 1]


def resolv_conf(servers: list[str]) -> str:
    """Over TCP: the gate hands in TCP sockets only."""
    return "".join(f"nameserver {server}\n" for server in servers) + "options use-vc timeout:5 attempts:2\n"
