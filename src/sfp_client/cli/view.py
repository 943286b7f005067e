"""Shows a followed task: log lines, and on a terminal a progress bar under them.

Lines of stdout go to stdout and lines of stderr to stderr, so that pipes work; with `--json` all go to stderr.
"""

import sys
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from sfp_client.cli import output

if TYPE_CHECKING:
    from rich.progress import Progress

    from sfp_client.live import Event
    from sfp_client.shapes import LogEntry

#: what is said about a state, where there is no bar that shows it
_REMARKS = {
    "task.retrying": "the attempt failed; it is tried again",
    "task.cancelled": "the task was cancelled",
}


class View:
    """Use it in a `with` block; give it every event."""

    def __init__(self, *, as_json: bool) -> None:
        self._out = sys.stderr if as_json else sys.stdout
        self._stack = ExitStack()
        self._bar: Progress | None = None
        self._task: Any = None  # rich.progress.TaskID, imported only where there is a terminal

    def __enter__(self) -> Self:
        if output.is_terminal(sys.stderr):
            self._start_bar()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def tell(self, event: "Event") -> None:
        """Show one event."""
        if event.event == "task.log":
            self.line(str(event.data.get("stream", "")), str(event.data.get("message", "")))
        elif event.event == "task.progress":
            self._move(int(event.data.get("progress", 0)), str(event.data.get("step", "")))
        else:
            self._move(None, event.event.removeprefix("task."))
            if event.event in _REMARKS:
                self.remark(_REMARKS[event.event])

    def line(self, stream: str, text: str) -> None:
        """One log line."""
        to = sys.stderr if stream == "stderr" else self._out
        if self._bar is not None and output.is_terminal(to):
            from rich.text import Text

            style = {"stderr": "red", "system": "dim"}.get(stream, "")
            shown = Text.from_ansi(output.printable(_last_state(text), to), style=style)
            self._bar.console.print(shown, soft_wrap=True)
            return
        print(output.printable(text, to), file=to, flush=True)

    def remark(self, text: str) -> None:
        """Something of ours, not of the task."""
        if self._bar is not None:
            from rich.text import Text

            self._bar.console.print(Text(text, style="yellow"), soft_wrap=True)
        else:
            output.note(text)

    def _start_bar(self) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (
            SpinnerColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
        )
        # our prints go through the bar's console; redirecting would catch what belongs to a pipe
        bar = Progress(
            *columns, console=output.console(sys.stderr), transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self._bar = self._stack.enter_context(bar)
        self._task = bar.add_task("submitted", total=100)

    def _move(self, percent: int | None, text: str) -> None:
        if self._bar is None:
            return
        moved: dict[str, Any] = {} if percent is None else {"completed": percent}
        self._bar.update(self._task, description=output.one_line(text), **moved)


def _last_state(text: str) -> str:
    """What a terminal would show of a line that was written over, as programs with a progress bar do."""
    return text.rstrip("\r").rpartition("\r")[2]


def print_entry(entry: "LogEntry", out: TextIO) -> None:
    """One stored log line, as `task logs` shows it."""
    print(output.printable(entry["message"], out), file=out, flush=True)
