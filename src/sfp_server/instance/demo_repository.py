"""The demo's repository: this project's own checkout, or one made from the installed package, over loopback HTTP."""

import http.server
import os
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
    commit = _git("-C", str(bare), "rev-parse", "HEAD")
    handler = type("Handler", (_Git,), {"root": bare.parent})
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


class _Git(http.server.BaseHTTPRequestHandler):
    """Hands requests to `git http-backend`, the CGI program that comes with git; clones only."""

    root: Path

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def _answer(self, body: bytes) -> None:
        path, _, query = self.path.partition("?")
        variables = {
            "PATH": os.defpath,
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        done = subprocess.run(
            ["git", "http-backend"], input=body, capture_output=True, env=variables, check=False, timeout=60
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode("latin-1").splitlines() if ": " in line)
        self.send_response(int(headers.pop("Status", "200").split()[0]))
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

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
