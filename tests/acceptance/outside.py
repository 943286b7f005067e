"""The outside world of the acceptance tests: one server on loopback, with a page, a git repository, and silence."""

import os
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PAGE = b"hello from outside\n"
_IDENTITY = ("-c", "user.name=Test", "-c", "user.email=test@example.org")


class Outside(ThreadingHTTPServer):
    """Serves PAGE everywhere, below `/git/` the repositories in a directory through git's own backend; `/silence/` never answers."""

    daemon_threads = True

    def __init__(self, repositories: Path) -> None:
        self.repositories = repositories
        #: the paths of all requests, in order: who came, and how often
        self.visits: list[str] = []
        self.asked_for_silence = threading.Event()
        self._closing = threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def server_close(self) -> None:
        self._closing.set()
        super().server_close()

    def stay_silent(self) -> None:
        """Until the end of the tests: whoever asked waits, or gives up."""
        self.asked_for_silence.set()
        self._closing.wait()

    @property
    def git_url(self) -> str:
        return f"{self.url}/git/example.git"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Outside

    def do_GET(self) -> None:
        self.server.visits.append(self.path)
        if self.path.startswith("/silence/"):
            self.server.stay_silent()
        elif self.path.startswith("/git/"):
            self._git()
        else:
            self._answer(200, [("Content-Type", "text/plain")], PAGE)

    do_POST = do_GET  # noqa: N815 (the name that http.server calls)

    def _git(self) -> None:
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.server.repositories),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path.removeprefix("/git"),
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=environment, stdout=subprocess.PIPE, check=True)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        fields = [tuple(line.split(": ", 1)) for line in head.decode().splitlines()]
        status = next((int(value[:3]) for name, value in fields if name == "Status"), 200)
        self._answer(status, [(name, value) for name, value in fields if name != "Status"], content)

    def _answer(self, status: int, fields: list[tuple[str, str]], body: bytes) -> None:
        self.send_response(status)
        for name, value in fields:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: the tests do."""


def make_repository(directory: Path) -> list[str]:
    """`example.git` with five commits, a tag `v1` and a branch `dev`; answers the commits, oldest first."""
    work, bare = directory / "work", directory / "example.git"

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(work), *_IDENTITY, *arguments], check=True, stdout=subprocess.PIPE)
        return done.stdout.decode().strip()

    subprocess.run(["git", "init", "-q", "-b", "main", str(work)], check=True)
    commits: list[str] = []
    for number in range(1, 6):
        (work / "number.txt").write_text(f"{number}\n")
        git("add", "number.txt")
        git("commit", "-q", "-m", f"commit {number}")
        commits.append(git("rev-parse", "HEAD"))
    git("tag", "v1", commits[2])
    git("branch", "dev", commits[3])
    subprocess.run(["git", "clone", "-q", "--bare", str(work), str(bare)], check=True)
    subprocess.run(["git", "-C", str(bare), "config", "uploadpack.allowAnySHA1InWant", "true"], check=True)
    return commits
