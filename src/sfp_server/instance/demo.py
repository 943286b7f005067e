"""`demo`: the main job from end to end, on a throw-away instance, checked at each step.

After `start` it is a client like any other: only the public API, through the SDK.
"""

import hashlib
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfp_client.cli import output
from sfp_server.instance import create
from sfp_server.instance.configuration import Wanted
from sfp_server.instance.create import Created
from sfp_server.instance.demo_repository import Repository, served
from sfp_server.instance.place import Place, existing
from sfp_server.instance.problem import InstanceError
from sfp_server.instance.start import start
from sfp_server.instance.stop import stop

if TYPE_CHECKING:
    from sfp_client import Client
    from sfp_client.shapes import TaskResult

TENANT = "demo"
#: the whole job, seconds
PATIENCE = 120.0


def run(*, keep: bool) -> bool:
    """Show it; True when everything was as it must be. Raises InstanceError when a step cannot be done."""
    from sfp_client import ClientError

    steps = _Steps()
    with _scratch(keep=keep) as scratch, served(scratch) as repository:
        steps.say("init", f"an instance in {scratch}")
        wish = Wanted(values={"egress.allow": repository.address, "workerCounts": "1,1,1"})
        made = create.create(scratch, TENANT, wish, force=False, environ={}, say=_quiet)
        at = existing(scratch, TENANT)
        try:
            started = start(at, scratch, {}, _quiet)
            steps.say("start", f"{started.url} is healthy")
            return _job(steps, made, at, started.url, repository)
        except ClientError as error:
            raise InstanceError(f"the demo's client was refused: {error}") from error
        finally:
            stop(at, cut=True)
            steps.say("stop", "everything stopped" + (f"; kept: {scratch}" if keep else " and removed"))


def _job(steps: "_Steps", made: Created, at: Place, url: str, repository: Repository) -> bool:
    from sfp_client import Client

    token = secrets.token_urlsafe(24)
    ca_file = at.edge_root_copy if at.edge_root_copy.is_file() else None
    with Client(url, ca_file=ca_file) as client:
        client.auth.login(made.email, made.password)
        steps.say("sign in", made.email)
        client.secrets.set("DEMO_TOKEN", token)
        steps.say("secret", "DEMO_TOKEN is stored, sealed")
        submitted = client.tasks.submit(
            "command",
            {
                "argv": ["python3", "-c", Path(__file__).with_name("demo_job.py").read_text()],
                "workspace": {"git": {"url": repository.url, "ref": repository.commit}},
                "artifacts": ["report.xml"],
            },
            credentials=[{"type": "secret", "name": "DEMO_TOKEN", "env": "DEMO_TOKEN"}],
            timeout_seconds=PATIENCE,
        )
        operation = submitted["operationId"]
        steps.say("submit", f"task {operation}: clone {repository.origin} and run its tests in a sandbox")
        _follow(client, operation)
        result = client.tasks.wait(operation, timeout=PATIENCE)
        return _judge(steps, client, result, token, repository)


def _follow(client: "Client", operation: str) -> None:
    """The task's events as they happen, over WebSocket."""
    for event in client.tasks.follow(operation, timeout=PATIENCE):
        if event.event == "task.log":
            _line(f"        | {event.data.get('message', '')}")
        elif event.event == "task.progress":
            _line(f"  {event.data.get('progress', 0):>4}% {event.data.get('step', '')}")
        else:
            _line(f"        {event.event}")


def _judge(steps: "_Steps", client: "Client", result: "TaskResult", token: str, repository: Repository) -> bool:
    """Compare what came back with what must be; each finding is told."""
    operation = result["operationId"]
    lines = [entry["message"] for entry in client.tasks.logs(operation)]
    command: dict[str, Any] = result.get("result") or {}
    found: dict[str, Any] = command.get("output") or {}
    checks = {
        "the task completed with exit code 0": result["status"] == "completed" and command.get("exitCode") == 0,
        f"it worked on commit {repository.commit[:12]}": found.get("commit") == repository.commit,
        "its credential reached it, and the log shows *** instead": any("***" in line for line in lines)
        and not any(token in line for line in lines)
        and "missing" not in "".join(line for line in lines if "credential" in line),
        "its report was kept and arrived whole": _report_is_whole(client, operation),
    }
    for check, held in checks.items():
        steps.say("check", f"{'yes' if held else 'NO '}  {check}")
    steps.say("result", f"{found.get('files', 0)} files compiled, {found.get('tests', 0)} tests run")
    if error := result["error"]:
        steps.say("error", f"{error['code']}: {error['message']}")
    return all(checks.values())


def _report_is_whole(client: "Client", operation: str) -> bool:
    """Fetch the kept report and compare it with the digest that the server gave."""
    kept = {item.get("name"): item for item in client.artifacts.of_task(operation)}
    report = kept.get("report.xml")
    if report is None:
        return False
    with tempfile.TemporaryDirectory(prefix="sfp-demo-report-") as folder:
        path = client.artifacts.download(operation, "report.xml", Path(folder) / "report.xml", sha256=report["sha256"])
        text = path.read_bytes()
    return b"<testsuite" in text and hashlib.sha256(text).hexdigest() == report["sha256"]


class _Steps:
    """Lines with the time since the beginning."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def say(self, name: str, text: str) -> None:
        _line(f"{time.monotonic() - self._began:5.1f} s  {name:<8} {text}")


def _line(text: str) -> None:
    print(output.printable(text, sys.stdout), flush=True)


def _quiet(_text: str) -> None:
    """The demo tells its own story."""


@contextmanager
def _scratch(*, keep: bool) -> Generator[Path]:
    """A private directory that is gone at the end, also after SIGTERM."""
    previous = signal.signal(signal.SIGTERM, _end)
    folder = Path(tempfile.mkdtemp(prefix="sfp-demo-"))
    try:
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
        signal.signal(signal.SIGTERM, previous)


def _end(_number: int, _frame: object) -> None:
    sys.exit(143)
