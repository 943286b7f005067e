"""What a dispatcher on another machine and the courier say to each other, after `PREFACE` and the TLS handshake.

One connection is one errand: a line of JSON, answered by one line, and the bytes of a file in one direction.

    ca       {}                                        → {"ca": PEM}          needs no key, tells no secret
    enter    {key}                                     → {"facts": Facts}
    fetch    {key, task, artifact, offset}             → {"name", "size", "sha256"}, then the bytes from `offset`
    keep     {key, task, attempt, artifact, name, size, sha256}
                                                       → {"have": n}; bytes from n on →; {"stored": true}

Every answer may be {"error": {"code", "message"}} instead: `unknown` (the key opens nothing), `stale` (the attempt is
not this machine's, or no longer running), `gone` (the artifact), `large`, `damaged` (try again), `malformed`.
"""

from uuid import UUID

import msgspec

#: the first bytes of a connection for an errand, and what the courier says to them
PREFACE = b"sfpcour1"
READY = b"ok"
#: bytes of one line
MAX_LINE = 64 * 1024
CHUNK = 256 * 1024
#: seconds without a byte after which a connection is given up
STALLED_SECONDS = 30.0


class Facts(msgspec.Struct, kw_only=True):
    """What the instance asks of a dispatcher."""

    name: str
    slots: int
    lease_seconds: int
    grace_seconds: int
    team_active_max: int
    preemptions_max: int
    #: ceilings of one worker, by the names of `Limits`
    limits: dict[str, int | None]
    version: str


class Errand(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A request; which fields it needs depends on what it does."""

    do: str
    key: str = ""
    task: UUID | None = None
    attempt: int = 0
    artifact: UUID | None = None
    offset: int = 0
    name: str = ""
    size: int = 0
    sha256: str = ""
