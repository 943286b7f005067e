"""Checkpoints: signed lines outside the database that say how far the trail had come.

A line is `{"at", "seq", "mark", "teams": {team: [teamSeq, mark]}, "whole", "previous", "keyId", "signature"}`; the team
of entries without one is `""`. `whole` lines name every team, the others those that have changed since the line before.
`previous` is the hash of the line before, zeros where the auditor found none. Files are `checkpoints-YYYY-MM.jsonl`.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from sfp_proof.canonical import canonical
from sfp_proof.keys import KeyRing
from sfp_proof.strict import loads

NAMES = "checkpoints-*.jsonl"
#: `previous` of a line that has none before it
FIRST = "0" * 64
_DOMAIN = b"sfp.audit.checkpoint.v1\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """How far a chain has come: the number and the mark of its last entry."""

    seq: int
    mark: bytes


@dataclass(slots=True, kw_only=True)
class Checkpoints:
    """What the files said, put together."""

    #: mark by entry number, of the whole trail
    marks: dict[int, bytes] = field(default_factory=dict[int, bytes])
    #: mark by number, per team
    teams: dict[str, dict[int, bytes]] = field(default_factory=dict[str, dict[int, bytes]])
    #: (file and line, what is wrong with it)
    problems: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    lines: int = 0
    #: hash of the last good line
    last_line: str = FIRST

    def head(self, team: str | None = None) -> Head | None:
        """The furthest that a checkpoint has seen the whole trail (None) or a team's part of it."""
        marks = self.marks if team is None else self.teams.get(team, {})
        return Head(seq=(last := max(marks)), mark=marks[last]) if marks else None


def message(line: Mapping[str, Any]) -> bytes:
    """What is signed of a line."""
    return _DOMAIN + canonical({name: value for name, value in line.items() if name != "signature"})


def hash_of(line: Mapping[str, Any]) -> str:
    """What the next line names as `previous`."""
    return hashlib.sha256(canonical(line)).hexdigest()


def files_at(path: Path) -> list[Path]:
    """The checkpoint files of a directory, oldest first; or the one file."""
    return sorted(path.glob(NAMES)) if path.is_dir() else [path]


def read(paths: Sequence[Path], keys: KeyRing) -> Checkpoints:
    """Read and check every line. What a crash left unfinished at the end of the last file does not count."""
    found = Checkpoints()
    for number, (where, text, is_unfinished) in enumerate(_lines(paths)):
        line = None if is_unfinished else _parsed(text)
        if is_unfinished:
            continue
        if line is None or not _is_signed(line, keys):
            found.problems.append((where, "this checkpoint was not written by the auditor, or was changed"))
            continue
        if number and line["previous"] not in {found.last_line, FIRST}:
            found.problems.append((where, "checkpoints before this one are missing"))
        _keep(found, line)
    return found


def _lines(paths: Sequence[Path]) -> Iterator[tuple[str, str, bool]]:
    """(file:line, text, whether it is unfinished) of all files in order."""
    for path in paths:
        text = path.read_text(errors="replace")
        lines = text.split("\n")
        for number, line in enumerate(lines[:-1], 1):
            yield f"{path.name}:{number}", line, False
        if lines[-1]:
            yield f"{path.name}:{len(lines)}", lines[-1], path == paths[-1]


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        line = loads(text)
    except ValueError:
        return None
    return cast("dict[str, Any]", line) if isinstance(line, dict) else None


def _is_signed(line: Mapping[str, Any], keys: KeyRing) -> bool:
    try:
        return keys.signed(line["keyId"], bytes.fromhex(line["signature"]), message(line))
    except (KeyError, TypeError, ValueError):
        return False


def _keep(found: Checkpoints, line: Mapping[str, Any]) -> None:
    """Of a signed line, so its fields are as the auditor wrote them."""
    found.lines += 1
    found.last_line = hash_of(line)
    if line["seq"]:
        found.marks[line["seq"]] = bytes.fromhex(line["mark"])
    for team, (seq, mark) in line["teams"].items():
        found.teams.setdefault(team, {})[seq] = bytes.fromhex(mark)
