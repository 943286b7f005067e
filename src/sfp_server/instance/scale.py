"""Change the slots of the queues: live, and in config.json so that it stays."""

import asyncio
from datetime import UTC, datetime
from typing import Any

from sfp_server.db.database import Database
from sfp_server.errors import SfpError
from sfp_server.instance import configuration
from sfp_server.instance.configuration import QUEUES
from sfp_server.instance.place import Place
from sfp_server.instance.problem import InstanceError
from sfp_server.settings import Settings

_SET = "UPDATE queues SET slots = $2, configured = $2 WHERE name = $1"
_WAKE = "SELECT pg_notify('sfp_tasks', 'scaled')"


def scale(at: Place, wanted: dict[str, int | None], *, running: bool) -> dict[str, Any]:
    """Set slots per queue; None keeps what is there, 0 pauses a queue. Running tasks finish.

    Returns the contract's `{tenant, status, previous, current, workers, timestamp}`.
    Raises InstanceError.
    """
    settings = configuration.settings(at, {})
    previous = settings.slots()
    current = {queue: number if (number := wanted[queue]) is not None else previous[queue] for queue in QUEUES}
    if running:
        asyncio.run(_apply(settings, current))
    values = configuration.saved(at)
    values["workerCounts"] = ",".join(str(current[queue]) for queue in QUEUES)
    configuration.save(at, values)
    return {
        "tenant": at.tenant,
        "status": "scaled" if running else "saved",
        "previous": previous,
        "current": current,
        "workers": sum(current.values()),
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }


async def _apply(settings: Settings, slots: dict[str, int]) -> None:
    try:
        async with Database(settings.role_url("sfp_dispatcher"), application="sfp scale", size=1) as database:
            async with database.serving() as tx:
                for queue, number in slots.items():
                    await tx.execute(_SET, queue, number)
                await tx.all(_WAKE)
    except SfpError as error:
        raise InstanceError(f"the slots cannot be changed now: {error}") from error
