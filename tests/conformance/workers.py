"""What the runtime tests need beside a runtime: an attendant that remembers, a broker, a git server."""

import asyncio
import contextlib
import functools
import json
import os
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import engine
from sfp_server.runtimes.base import Exit, Limits, Workload
from sfp_server.runtimes.process import ProcessRuntime
from sfp_server.runtimes.sandbox import SandboxRuntime

#: the sandbox in both its ways: forked from a template, and built one by one where that is not possible
RUNTIMES = {
    "sandbox": SandboxRuntime,
    "built": functools.partial(SandboxRuntime, forked=False),
    "process": ProcessRuntime,
    "container": engine.runtime,
}


class Attendant:
    """Remembers everything; `saw(text)` waits for a log line."""

    def __init__(self, ticket=None):
        self.ticket = ticket
        self.lines = []
        self.reports = []
        self.files = {}
        self.finished = []
        self._new = asyncio.Condition()

    async def log(self, lines):
        async with self._new:
            self.lines.extend(lines)
            self._new.notify_all()

    async def progress(self, percent, text):
        self.reports.append((percent, text))

    async def artifact(self, name, chunk, *, last):
        self.files[name] = self.files.get(name, b"") + chunk
        if last:
            self.finished.append(name)

    async def saw(self, text):
        async with asyncio.timeout(20), self._new:
            await self._new.wait_for(lambda: any(text in line.message for line in self.lines))

    def text(self, stream=None):
        return "\n".join(line.message for line in self.lines if stream in (None, line.stream))


def workload(*argv, **fields):
    fields.setdefault("limits", Limits(memory_mb=512, disk_mb=64, processes=64))
    fields.setdefault("grace_seconds", 1.0)
    return Workload(operation_id="0190-test", attempt=1, argv=argv, **fields)


def python(code, **fields):
    return workload("python3", "-c", code, **fields)


async def run(runtime, load, attendant=None) -> tuple[Exit, Attendant]:
    attendant = attendant or Attendant()
    handle = await runtime.start(load, attendant)
    async with asyncio.timeout(60):
        return await runtime.wait(handle), attendant


@contextlib.asynccontextmanager
async def broker(path, answer):
    """A unix socket that answers each ticket with `answer`; yields the tickets it saw."""
    seen = []

    async def serve(reader, writer):
        seen.append(json.loads(await reader.readline())["ticket"])
        writer.write(json.dumps(answer).encode() + b"\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_unix_server(serve, path)
    async with server:
        yield seen


def secret(value, env="NPM_TOKEN"):
    return {"credentials": [{"type": "secret", "name": env, "env": env, "value": value}]}


@contextlib.contextmanager
def git_server(tmp_path):
    """A real repository behind git's own http-backend, on loopback; yields (port, commit, earlier commit)."""
    work, root = tmp_path / "work", tmp_path / "served"
    root.mkdir()

    def git(*args, cwd=work):
        environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
        for who in ("AUTHOR", "COMMITTER"):
            environment |= {f"GIT_{who}_NAME": "t", f"GIT_{who}_EMAIL": "t@example.org"}
        done = subprocess.run(["git", *args], cwd=cwd, check=True, capture_output=True, text=True, env=environment)
        return done.stdout.strip()

    work.mkdir()
    git("init", "-q", "-b", "main")
    (work / "file").write_text("first\n")
    git("add", ".")
    git("commit", "-qm", "first")
    earlier = git("rev-parse", "HEAD")
    git("tag", "v1")
    (work / "file").write_text("second\n")
    git("commit", "-qam", "second")
    git("clone", "-q", "--bare", str(work), str(root / "repo.git"), cwd=tmp_path)
    commit = git("rev-parse", "HEAD")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.serve()

        def do_POST(self):
            self.serve()

        def serve(self):
            path, _, query = self.path.partition("?")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            environment = {
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": str(root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "REQUEST_METHOD": self.command,
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": "safe.directory",
                "GIT_CONFIG_VALUE_0": "*",
            }
            done = subprocess.run(["git", "http-backend"], input=body, env=environment, capture_output=True)
            head, _, content = done.stdout.partition(b"\r\n\r\n")
            headers = dict(line.split(": ", 1) for line in head.decode().splitlines() if ": " in line)
            self.send_response(int(headers.pop("Status", "200").split()[0]))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1], commit, earlier
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
