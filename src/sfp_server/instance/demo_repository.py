"""The demo's repository: this project's own checkout, or one made from the installed package, over loopback HTTP."""

import functools
import http.server
import shutil
import subprocess
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sfp_server.instance.problem import InstanceError


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    url: str
    #: `host:port`, for egress.allow
    address: str
    commit: str
    #: where it came from, for a person
    origin: str


@contextmanager
def served(scratch: Path) -> Generator[Repository]:
    """A bare repository below `scratch`, served read-only on 127.0.0.1 for the length of the block."""
    checkout = Path(__file__).parents[3]
    own = (checkout / ".git").exists() and (checkout / "pyproject.toml").is_file()
    source = checkout if own else _from_package(scratch / "source")
    bare = scratch / "www" / "repository.git"
    bare.parent.mkdir(mode=0o700)
    _git("clone", "--quiet", "--bare", "--no-local", str(source), str(bare))
    _git("-C", str(bare), "update-server-info")  # plain files are enough for a clone over HTTP
    commit = _git("-C", str(bare), "rev-parse", "HEAD")
    handler = functools.partial(_Silent, directory=str(bare.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        address = f"127.0.0.1:{server.server_port}"
        yield Repository(
            url=f"http://{address}/repository.git",
            address=address,
            commit=commit,
            origin=str(checkout) if own else "the installed package",
        )
        server.shutdown()
        thread.join()


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the parent's name)
        """Say nothing: the demo's own lines should be readable."""


def _from_package(target: Path) -> Path:
    """A small real repository: the installed package's own files, committed once."""
    package = Path(__file__).parents[1]
    for name in ("sfp_server", "sfp_worker", "sfp_client"):
        if (package.parent / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(package.parent / name, target / "src" / name, ignore=ignore)
    _git("-C", str(target), "init", "--quiet", "--initial-branch=main")
    _git("-C", str(target), "add", "--all")
    identity = ("-c", "user.name=demo", "-c", "user.email=demo@localhost", "-c", "commit.gpgsign=false")
    _git("-C", str(target), *identity, "commit", "--quiet", "--message", "The installed package")
    return target


def _git(*arguments: str) -> str:
    """Run git and return what it says. Raises InstanceError."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False, timeout=120)
    except FileNotFoundError as error:
        raise InstanceError("git is not installed: install it (Debian: apt-get install git)") from error
    if done.returncode != 0:
        raise InstanceError(f"git {arguments[-1]}: {done.stderr.strip().splitlines()[-1:] or 'failed'}")
    return done.stdout.strip()
