"""Makes the workspace: files, an archive, or a git clone."""

from __future__ import annotations

import errno
import os

from sfp_worker.failure import Failed
from sfp_worker.place import Place, clean_relative

TYPE_CHECKING = False  # typing costs more to import than all of this package
if TYPE_CHECKING:
    from typing import Any


def write_files(place: Place, files: dict[str, Any]) -> None:
    """Write `files` (relative path → text) below the workspace.

    Raises:
        Failed: `workspace` for a path that leaves it or that cannot be made; `disk_limit`.
    """
    for name, text in files.items():
        try:
            path = f"{place.src}/{clean_relative(name)}"
        except ValueError:
            raise Failed("workspace", f"a file's path leaves the workspace: {name[:200]!r}") from None
        try:
            os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
            with open(path, "wb") as file:
                file.write(str(text).encode("utf-8", "surrogateescape"))
        except OSError as error:
            raise cannot_write(error, name) from error


def cannot_write(error: OSError, name: str) -> Failed:
    """The failure for a file that could not be made."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return Failed("disk_limit", "the workspace does not fit into the disk limit")
    return Failed("workspace", f"cannot write {name[:200]!r}: {os.strerror(error.errno or errno.EIO)}")
