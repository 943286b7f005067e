"""Checking an export of a trail: JSON lines, as `GET /audit/export` gives them."""

from collections.abc import Callable
from pathlib import Path
from typing import IO

from sfp_proof.chain import Sealed
from sfp_proof.check import Check, Report
from sfp_proof.checkpoint import Checkpoints
from sfp_proof.keys import KeyRing
from sfp_proof.strict import loads

#: lines between two reports of progress
_STEP = 10_000


def check_export(
    file: Path, keys: KeyRing, checkpoints: Checkpoints, *, told: Callable[[int], None] = lambda _: None
) -> Report:
    """Read a file, of any length, and name what is wrong with it. Raises OSError.

    The file has one team's chain, or, with entries of several, the whole trail.
    """
    with file.open() as lines:
        teams = _teams(lines)
    check = Check(keys, checkpoints, team=teams.pop() if len(teams) == 1 else None)
    with file.open() as lines:
        for number, line in enumerate(lines, 1):
            try:
                check.add(Sealed.from_json(loads(line)))
            except ValueError:
                check.unreadable(number)
            if number % _STEP == 0:
                told(number)
    return check.finish()


def _teams(lines: IO[str]) -> set[str]:
    """Of whom there are entries; two are enough to know."""
    found: set[str] = set()
    for line in lines:
        try:
            found.add(Sealed.from_json(loads(line)).entry.team or "")
        except ValueError:
            continue
        if len(found) > 1:
            break
    return found
