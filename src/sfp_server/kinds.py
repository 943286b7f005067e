"""Every task type of this release; a new one is one line here."""

from typing import Any

from sfp_server.tasks.command import COMMAND
from sfp_server.tasks.kind import Kind

KINDS: dict[str, Kind[Any]] = {kind.name: kind for kind in [COMMAND]}
