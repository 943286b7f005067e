"""Makes a workspace of local files: a few as text inside the task, a directory as an uploaded archive."""

import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfp_client.cli.parse import git, wrong

if TYPE_CHECKING:
    from sfp_client.client import Client

#: not part of what is uploaded
LEFT_OUT = frozenset({".git"})


def workspace(
    client: "Client", *, files: Sequence[Path], directory: Path | None, repository: str | None
) -> dict[str, Any] | None:
    """The `workspace` of a task, or None. At most one kind is given, else it is a usage error."""
    if sum([bool(files), directory is not None, repository is not None]) > 1:
        raise wrong("--file, --dir, --git", "choose one of them")
    if files:
        return {"files": dict(_text(file) for file in files)}
    if directory is not None:
        return {"artifact": _upload(client, directory)}
    return None if repository is None else {"git": git(repository)}


def _text(file: Path) -> tuple[str, str]:
    """(path inside the workspace, text)."""
    name = file.as_posix() if not file.is_absolute() and ".." not in file.parts else file.name
    try:
        return name, file.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise wrong("--file", f"{file} is not text: use --dir") from error


def _upload(client: "Client", directory: Path) -> str:
    if not directory.is_dir():
        raise wrong("--dir", f"{directory} is not a directory")
    with tempfile.TemporaryDirectory(prefix="sfp-") as scratch:
        archive = Path(scratch) / "workspace.tar.gz"
        with tarfile.open(archive, "w:gz", compresslevel=6) as tar:
            tar.add(directory, arcname=".", filter=_anonymous)
        return client.artifacts.upload(archive)["id"]  # pyright: ignore[reportTypedDictNotRequiredAccess] (an upload has one)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Without owners, and without what is left out."""
    if Path(member.name).name in LEFT_OUT:
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member
