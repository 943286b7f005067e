"""Follows a task that this command started, to its end; Ctrl-C cancels it."""

import signal
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from sfp_client.cli import output
from sfp_client.cli.view import View
from sfp_client.errors import ApiError, TimedOut
from sfp_client.tasks import FINAL_EVENTS

if TYPE_CHECKING:
    from sfp_client.client import Client
    from sfp_client.shapes import TaskResult

#: seconds to wait for a cancelled task to end: its grace period, and some more
END_AFTER_CANCEL = 60.0


def watch(
    client: "Client", operation_id: str, *, as_json: bool, timeout: float | None = None, cancels: bool = True
) -> "TaskResult":
    """Show a task live and return its result.

    Ctrl-C (or SIGTERM) cancels it and waits for its end, a second one leaves at once; without `cancels` the first
    one leaves and the task goes on. Both end the command with 130. Raises TimedOut after `timeout` seconds.
    """
    with View(as_json=as_json) as view, terminated_like_interrupted():
        watcher = _Watcher(client, operation_id, view)
        try:
            watcher.to_the_end(timeout)
        except KeyboardInterrupt:
            if not cancels:
                output.fail(f"interrupted; task {operation_id} goes on", code=output.INTERRUPTED)
            view.remark("cancelling the task; interrupt again to leave at once")
            watcher.cancel()
            output.fail(f"interrupted; task {operation_id} is cancelled", code=output.INTERRUPTED)
        except TimedOut as error:
            raise TimedOut(f"task {operation_id} has not ended after {timeout:g} seconds; it goes on") from error
    return client.tasks.result(operation_id)


class _Watcher:
    """Shows events once, also when it is asked to go on after an interruption."""

    def __init__(self, client: "Client", operation_id: str, view: View) -> None:
        self._client = client
        self._id = operation_id
        self._view = view
        self._last = 0
        self._ended = False

    def to_the_end(self, timeout: float | None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._ended:
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            for event in self._client.tasks.follow(self._id, after=self._last, timeout=left):
                self._last = event.seq
                self._view.tell(event)
                self._ended = event.event in FINAL_EVENTS

    def cancel(self) -> None:
        try:
            self._client.tasks.cancel(self._id)
            self.to_the_end(END_AFTER_CANCEL)
        except TimedOut:
            self._view.remark("the task has not ended yet; the server goes on ending it")
        except ApiError as error:
            if error.code != "already_final":
                raise


@contextmanager
def terminated_like_interrupted() -> Generator[None]:
    """Inside, SIGTERM is a KeyboardInterrupt: a pipeline that is cut off cancels its task."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def exit_status(result: "TaskResult") -> int:
    """The program's own exit code, or 128 + signal, when it ran to its end; else 0 for success and 1."""
    own = result.get("result")
    program = cast("dict[str, Any]", own) if isinstance(own, dict) else {}
    error = result["error"]
    if result["status"] == "completed" or (error is not None and error["code"] == "exit_code"):
        if program.get("signal"):
            return 128 + int(program["signal"])
        if program.get("exitCode") is not None:
            return int(program["exitCode"])
    return 0 if result["status"] == "completed" else output.FAILED


def explain(result: "TaskResult") -> str:
    """How a task ended, in one sentence."""
    error = result["error"]
    said = f"task {result['operationId']} {result['status']}"
    return said if error is None else f"{said}: {error['message']} ({error['code']})"
