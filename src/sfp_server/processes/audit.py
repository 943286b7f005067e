"""The auditor process: the only one that reads the key with which the audit trail and receipts are signed."""

import asyncio
import ctypes

from sfp_proof.keys import KeyRing
from sfp_server.audit.checkpoints import CheckpointFiles
from sfp_server.audit.desk import Desk
from sfp_server.audit.sealer import Sealer
from sfp_server.audit.signer import Signer
from sfp_server.db.database import Database
from sfp_server.processes.signals import stop_signal, until_stopped
from sfp_server.settings import Settings

_PR_SET_DUMPABLE = 4


async def run(settings: Settings) -> None:
    """Seal, and answer the API, until SIGTERM."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)  # as the broker: nobody reads its memory
    stopping = stop_signal()
    async with Database(settings.role_url("sfp_auditor"), application="sfp auditor", size=4) as database:
        await until_stopped(stopping, audit(settings, database))


async def audit(settings: Settings, database: Database) -> None:
    """The auditor's work, until cancelled."""
    signer = Signer(settings.secret("audit-signing.pem"))
    keys = KeyRing.read(settings.secret("audit-public.pem"))
    files = CheckpointFiles(settings.checkpoint_directory, signer, months=settings.audit_checkpoint_months)
    sealer = Sealer(database, signer, keys, files, tag_key=settings.audit_key())
    sealer.remember(files.open(keys))
    desk = Desk(
        database, signer, keys, sealer, settings.checkpoint_directory, instance=f"{settings.tenant}@{settings.domain}"
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(sealer.run(checkpoint_seconds=settings.audit_checkpoint_seconds))
        group.create_task(desk.serve(settings.auditor_socket))
