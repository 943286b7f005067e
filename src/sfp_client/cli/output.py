"""The one way to print: results to stdout, everything else to stderr.

With `--json`, stdout gets exactly one JSON value. Colours, tables and progress bars appear on a terminal only.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

if TYPE_CHECKING:
    from rich.console import Console

FAILED = 1
USAGE = 2
NOT_FOUND = 3
NOT_SIGNED_IN = 4
TIMED_OUT = 5
INTERRUPTED = 130

#: control characters and escape sequences other than colours: what a task prints must not drive the terminal
_UNSAFE = re.compile(
    r"(?!\x1b\[[0-9;]*m)\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])?"
    r"|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]"
)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Failure(Exception):
    """Ends the command: `str()` is one sentence that says what to do next, `code` the exit status."""

    def __init__(self, message: str, *, code: int = FAILED, detail: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        #: goes into the JSON value of `--json`
        self.detail = detail or {}


class Told(Exception):
    """Something went wrong (its cause) after the one JSON value had begun: only stderr is told."""


def fail(message: str, *, code: int = FAILED) -> NoReturn:
    """End the command with one sentence on stderr and an exit status."""
    raise Failure(message, code=code)


def show(value: Any, *, as_json: bool, text: str | Callable[[], str | None] | None = None) -> None:
    """Print the result: `value` as JSON, or `text` (or what it returns; None: it has printed) for a person."""
    if as_json:
        print(json.dumps(value, ensure_ascii=False, indent=2))
        return
    said = text() if callable(text) else text
    if said is not None:
        print(printable(said, sys.stdout))


def show_array(items: Iterable[Any]) -> None:
    """Print one JSON array, each item as soon as it is there, and whole also when `items` fails. Raises Told."""
    rest = iter(items)
    first = next(rest, _NOTHING)  # a failure before the first item is told as any other
    print("[", end="")
    try:
        if first is not _NOTHING:
            print("\n" + json.dumps(first, ensure_ascii=False), end="", flush=True)
        for item in rest:
            print(",\n" + json.dumps(item, ensure_ascii=False), end="", flush=True)
    except BrokenPipeError:
        raise
    except Exception as error:
        raise Told from error
    finally:
        print("\n]")


_NOTHING = object()


def note(text: str) -> None:
    """Say something that is not the result."""
    print(printable(text, sys.stderr), file=sys.stderr)


def is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def printable(text: str, stream: TextIO) -> str:
    """On a terminal: without control sequences other than colours (none with NO_COLOR); elsewhere as it is."""
    if not is_terminal(stream):
        return text
    clean = _UNSAFE.sub("", text)
    return _COLOUR.sub("", clean) if os.environ.get("NO_COLOR") else clean


def console(stream: TextIO) -> "Console":
    """A rich console on `stream`; colours when it is a terminal and NO_COLOR is not set."""
    from rich.console import Console

    return Console(file=stream, highlight=False, soft_wrap=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """A table on a terminal; elsewhere one line per row, values parted by tabs, without a head."""
    if not is_terminal(sys.stdout):
        for row in rows:
            print("\t".join(one_line(value) for value in row))
        return
    if not rows:
        note(empty)
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(columns):
        drawn.add_column(
            name, no_wrap=True, min_width=max(len(one_line(row[0])) for row in rows) if number == 0 else None
        )
    for row in rows:
        drawn.add_row(*(Text(_short(one_line(value)), style=_STYLES.get(one_line(value), "")) for value in row))
    console(sys.stdout).print(drawn, soft_wrap=False)


_STYLES = {
    "completed": "green",
    "healthy": "green",
    "failed": "red",
    "unhealthy": "red",
    "active": "cyan",
    "degraded": "yellow",
    "cancelled": "yellow",
    "expired": "dim",
    "revoked": "dim",
}


def _short(text: str) -> str:
    """A time to the second; anything else as it is."""
    return f"{text[:19].replace('T', ' ')}Z" if _TIME.fullmatch(text) else text


def facts(pairs: Sequence[tuple[str, object]]) -> str:
    """Lines of `name   value`, those without a value left out."""
    known = [(name, value) for name, value in pairs if value not in (None, "")]
    width = max((len(name) for name, _ in known), default=0)
    return "\n".join(f"{name.ljust(width)}  {one_line(value)}" for name, value in known)


def one_line(value: object) -> str:
    """One line of text without control characters: names come from other people."""
    if value is None:
        return ""
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return "".join(letter if letter.isprintable() else "�" for letter in str(value))
