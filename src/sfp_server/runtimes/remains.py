"""What workers of dispatchers that are gone have left on this machine: groups and folders.

A dispatcher removes it when it starts. Where none comes after (`stop -f`), this does.
"""

import asyncio
import os
import tempfile
from pathlib import Path

from sfp_server.runtimes.cgroups import MOUNT, Cgroups
from sfp_server.runtimes.folders import PUBLIC, Folders


def remove(*scratch: Path) -> None:
    """Remove the remains of dead dispatchers below `scratch`, and where every instance of this machine has some."""
    for folder in (*scratch, *(Path(top) / PUBLIC for top in ("/run", "/var/tmp", tempfile.gettempdir()))):  # noqa: S108 (private folders inside)
        Folders(folder).remove_leftovers()
    asyncio.run(_remove_groups(MOUNT))


async def _remove_groups(mount: Path) -> None:
    # Wherever the dispatcher was started: its groups lie below its own. Groups come and go meanwhile, which `os.walk`
    # takes as it comes.
    parents = {Path(top) for top, names, _ in os.walk(mount) if any(name.startswith("sfp-") for name in names)}
    for parent in parents:
        await Cgroups(version="v1", memory=parent).remove_leftovers()
