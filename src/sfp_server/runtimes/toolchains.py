"""Toolchains: folders of tools beside the system's own, put on this machine once and read-only for every worker.

    <folder>/<name>/toolchain.json   {"version": "2.1.0", "path": ["bin"], "env": {"NODE_PATH": "{toolchain}/lib"}}
    <folder>/<name>/…                whatever it is made of

A worker that needs one finds it at `{toolchain}`, with `path` in front of its PATH. What is found here is reported to
the database: a task that needs a toolchain goes only to a dispatcher that has it. Beside these folders an admin can
name what is part of the system anyway (`dispatcher.toolchains`).
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import structlog

from sfp_server.settings import Settings

log: Any = structlog.get_logger(__name__)

DESCRIPTION = "toolchain.json"
PUBLIC = Path("/opt/sfp-server/toolchains")
#: stands for where a worker sees the toolchain
_PLACE = "{toolchain}"


class _Description(msgspec.Struct, forbid_unknown_fields=True):
    version: str
    path: list[str] = []
    env: dict[str, str] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchain:
    """One toolchain of this machine."""

    name: str
    version: str
    #: None: it is part of the system
    folder: Path | None = None
    #: relative to the folder
    path: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str])

    def path_at(self, place: str) -> list[str]:
        """What goes in front of PATH where the toolchain is seen at `place`."""
        return [f"{place}/{part}".rstrip("/") for part in self.path]

    def env_at(self, place: str) -> dict[str, str]:
        return {name: value.replace(_PLACE, place) for name, value in self.env.items()}


def of_machine(settings: Settings) -> dict[str, Toolchain]:
    """Every toolchain of this machine, by name."""
    named = {name: Toolchain(name=name, version=version) for name, version in settings.toolchains().items()}
    return named | find(folder_of(settings))


def folder_of(settings: Settings) -> Path:
    """Where toolchains lie. When the dispatcher is root its workers are nobody, who cannot enter the instance."""
    if settings.toolchains_directory is not None:
        return Path(settings.toolchains_directory)
    return PUBLIC if os.geteuid() == 0 else settings.directory / "toolchains"


def versions(toolchains: Mapping[str, Toolchain]) -> dict[str, str]:
    return {name: toolchain.version for name, toolchain in toolchains.items()}


def find(folder: Path) -> dict[str, Toolchain]:
    """The toolchains below `folder`, by name. One that is not described properly is left out, and logged."""
    found: dict[str, Toolchain] = {}
    for description in sorted(folder.glob(f"*/{DESCRIPTION}")):
        try:
            found[description.parent.name] = _read(description)
        except (OSError, ValueError) as error:
            log.warning("a toolchain is not used: its description is wrong", file=str(description), why=str(error))
    return found


def _read(description: Path) -> Toolchain:
    """Raises OSError, ValueError (msgspec's are)."""
    if os.geteuid() == 0 and not all(place.stat().st_mode & 0o001 for place in description.resolve().parents):
        raise ValueError("workers may not enter its folder: put it where everybody may read it")
    said = msgspec.json.decode(description.read_bytes(), type=_Description)
    for part in said.path:
        if part.startswith("/") or ".." in part.split("/") or ":" in part:
            raise ValueError(f"path {part!r} must lie inside the toolchain")
    for name in said.env:
        if not name.isidentifier() or name.startswith("SFP_") or name == "PATH":
            raise ValueError(f"env {name!r} is not for a toolchain to set")
    return Toolchain(
        name=description.parent.name,
        version=said.version,
        folder=description.parent.resolve(),
        path=tuple(said.path),
        env=said.env,
    )
