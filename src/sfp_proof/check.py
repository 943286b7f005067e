"""Reads a trail in order and names every place where it is not what the auditor sealed.

A seal's signature costs a hundred times what its hash does. As long as entries hang together, one signature in
`STRIDE` proves those before it; where they do not, each signature around the place is checked, and the wrong entry,
not its neighbour, is named.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from sfp_proof.chain import BEGINNING, Sealed
from sfp_proof.checkpoint import Checkpoints
from sfp_proof.keys import KeyRing

STRIDE = 256
#: problems that are listed; the others are counted
MOST_PROBLEMS = 100
#: wrong entries that are compared with each other, to find those that were exchanged
_COMPARED = 24

#: changed: the entry or its seal is not what was sealed; swapped: the same, with each other's contents. missing:
#: entries were deleted; cut: at the end. repeated: a number is there twice. rewritten: sealed, but a checkpoint saw
#: another entry there. apart: sealed, but does not hang on the entry before. unknown_key: a seal of nobody we trust.
#: old_key: sealed with a key that had been replaced. unattested: written by none of the instance's processes.
#: unsealed: waits for its seal for too long. checkpoint: a line of the checkpoint files is wrong or missing.
Kind = Literal[
    "changed", "missing", "swapped", "repeated", "cut", "rewritten", "apart", "unknown_key", "old_key", "unattested",
    "unsealed", "checkpoint",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong, and where. `entry` and `last` are entry numbers in the chain that was read."""

    kind: Kind
    entry: int | None = None
    #: of a range: its end
    last: int | None = None
    id: int | None = None
    at: str | None = None
    team: str | None = None
    detail: str = ""

    def as_json(self) -> dict[str, Any]:
        place = {"entry": self.entry, "last": self.last, "id": self.id, "at": self.at, "team": self.team}
        known = {name: value for name, value in place.items() if value is not None}
        return {"kind": self.kind, "place": known, "detail": self.detail}


@dataclass(slots=True, kw_only=True)
class Report:
    """What was read, and what is wrong with it."""

    entries: int = 0
    #: number, mark, id and time of the last entry
    last: Sealed | None = None
    last_number: int = 0
    problems: list[Problem] = field(default_factory=list[Problem])
    more: int = 0
    #: entries that wait for their seal
    unsealed: int = 0
    checkpoints: int = 0

    @property
    def ok(self) -> bool:
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        last = self.last
        return {
            "ok": self.ok,
            "entries": self.entries,
            "checkedTo": None
            if last is None
            else {"entry": self.last_number, "id": last.entry.id, "at": last.entry.at, "mark": last.mark().hex()},
            "unsealed": self.unsealed,
            "checkpoints": self.checkpoints,
            "problems": [problem.as_json() for problem in self.problems],
            "moreProblems": self.more,
        }


class Check:
    """Give it every sealed entry in the order of its number (`add`), then ask for the report (`finish`)."""

    def __init__(self, keys: KeyRing, checkpoints: Checkpoints, *, team: str | None = None) -> None:
        """`team`: read that team's chain ("": of entries without a team); None: the whole trail."""
        self._keys = keys
        self._team = team
        self._marks = checkpoints.marks if team is None else checkpoints.teams.get(team, {})
        self._report = Report(checkpoints=checkpoints.lines)
        for where, what in checkpoints.problems:
            self._tell(Problem(kind="checkpoint", detail=f"{where}: {what}"))
        self._number = 0
        self._mark = BEGINNING
        self._is_good = True  # the entry before this one
        #: hang together, and their signatures have not been looked at
        self._open: list[tuple[int, Sealed, bytes]] = []
        self._wrong: list[Sealed] = []
        self._key_age = -1

    @property
    def entries(self) -> int:
        """How many were read so far."""
        return self._report.entries

    @property
    def number(self) -> int:
        """The last number that was read."""
        return self._number

    def add(self, sealed: Sealed) -> None:
        """The next entry."""
        seal = sealed.seal
        number, previous = (seal.seq, seal.previous) if self._team is None else (seal.team_seq, seal.team_previous)
        digest = seal.digest(sealed.entry)
        self._report.entries += 1
        follows = number == self._number + 1
        hangs = follows and previous == self._mark
        if not hangs:
            self._settle()
            if number <= self._number:
                self._tell(_at(sealed, number, "repeated", "this number was there before"))
                return
            before = self._is_good
            is_good = self._is_genuine(number, sealed, digest)
            if not follows:
                self._gap(number)
            elif before and is_good:
                self._tell(_at(sealed, number, "apart", "it does not hang on the entry before"))
            self._is_good = is_good
        else:
            self._open.append((number, sealed, digest))
        self._compare(number, sealed, sealed.mark())
        if len(self._open) >= STRIDE:
            self._settle()

    def unreadable(self, line: int) -> None:
        """A line of a file that is no entry."""
        self._tell(Problem(kind="changed", detail=f"line {line} is not an entry"))

    def finish(self) -> Report:
        """Everything that was found."""
        self._settle()
        self._exchanged()
        furthest = max(self._marks, default=0)
        if furthest > self._number:
            what = "the end of the trail is missing: it had come as far as the last of these"
            self._tell(Problem(kind="cut", entry=self._number + 1, last=furthest, team=self._team, detail=what))
        return self._report

    def waiting(self, count: int, *, oldest: str | None, too_long: bool) -> None:
        """Entries without a seal: how many, since when, and whether that is too long."""
        self._report.unsealed = count
        if too_long:
            what = f"{count} entries wait for their seal: the auditor does not run, or they were put in its way"
            self._tell(Problem(kind="unsealed", at=oldest, team=self._team, detail=what))

    def _compare(self, number: int, sealed: Sealed, mark: bytes) -> None:
        known = self._marks.get(number)
        if known is not None and known != mark:
            self._settle()
            if self._is_good:  # else it has been told already
                self._tell(_at(sealed, number, "rewritten", "a checkpoint saw another entry here"))
        self._number, self._mark = number, mark
        self._report.last, self._report.last_number = sealed, number

    def _settle(self) -> None:
        """Look at the signatures of what is open: at the last one only, when that is enough."""
        if not self._open:
            return
        number, last, digest = self._open[-1]
        if not (
            self._keys.signed(last.seal.key_id, last.signature, digest)
            and all(sealed.seal.key_id == last.seal.key_id for _, sealed, _ in self._open)
            and self._keys.age(last.seal.key_id) >= self._key_age
        ):
            for number, sealed, digest in self._open:
                self._is_good = self._is_genuine(number, sealed, digest)
        else:
            self._is_good = True
            self._key_age = self._keys.age(last.seal.key_id)
            for number, sealed, _ in self._open:
                self._attestation(number, sealed)
        self._open.clear()

    def _is_genuine(self, number: int, sealed: Sealed, digest: bytes) -> bool:
        """Whether the auditor has sealed exactly this; tells when not."""
        age = self._keys.age(sealed.seal.key_id)
        if age < 0:
            self._tell(_at(sealed, number, "unknown_key", f"sealed with the key {sealed.seal.key_id[:40]}"))
            return False
        if not self._keys.signed(sealed.seal.key_id, sealed.signature, digest):
            if len(self._wrong) < _COMPARED:
                self._wrong.append(sealed)
            self._tell(_at(sealed, number, "changed", "the entry or its seal is not what was sealed"))
            return False
        if age < self._key_age:
            self._tell(_at(sealed, number, "old_key", "sealed with a key after it had been replaced"))
            return False
        self._key_age = age
        self._attestation(number, sealed)
        return True

    def _attestation(self, number: int, sealed: Sealed) -> None:
        if not sealed.seal.attested:
            self._tell(_at(sealed, number, "unattested", "written by none of the instance's processes"))

    def _gap(self, number: int) -> None:
        what = f"entries were deleted: {number - self._number - 1}"
        self._tell(Problem(kind="missing", entry=self._number + 1, last=number - 1, team=self._team, detail=what))

    def _exchanged(self) -> None:
        """Of the changed entries, those whose contents fit each other's seals were swapped."""
        for place, mine in enumerate(self._wrong):
            for other in self._wrong[place + 1 :]:
                if self._fits(mine, other) and self._fits(other, mine):
                    self._say_swapped(mine, other)
                    self._say_swapped(other, mine)

    def _fits(self, seal: Sealed, content: Sealed) -> bool:
        return self._keys.signed(seal.seal.key_id, seal.signature, seal.seal.digest(content.entry))

    def _say_swapped(self, mine: Sealed, other: Sealed) -> None:
        number = mine.seal.seq if self._team is None else mine.seal.team_seq
        partner = other.seal.seq if self._team is None else other.seal.team_seq
        told = _at(mine, number, "swapped", f"its content is that of entry {partner}, and the other way round")
        self._report.problems = [
            told if problem.kind == "changed" and problem.entry == number else problem
            for problem in self._report.problems
        ]

    def _tell(self, problem: Problem) -> None:
        if len(self._report.problems) < MOST_PROBLEMS:
            self._report.problems.append(problem)
        else:
            self._report.more += 1


def _at(sealed: Sealed, number: int, kind: Kind, detail: str) -> Problem:
    entry = sealed.entry
    return Problem(kind=kind, entry=number, id=entry.id, at=entry.at, team=entry.team, detail=detail)
