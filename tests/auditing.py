"""The auditor in this process, on a test's database: sealer, checkpoint files and desk."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sfp_proof.check import Report
from sfp_proof.checkpoint import files_at, read
from sfp_proof.keys import KeyRing
from sfp_server.audit.checkpoints import CheckpointFiles
from sfp_server.audit.sealer import Sealer
from sfp_server.audit.signer import Signer
from sfp_server.audit.verifying import verify
from sfp_server.db.database import Database
from sfp_server.instance.keys import make_secrets
from sfp_server.instance.place import Place
from sfp_server.processes.audit import audit
from sfp_server.settings import Settings


@dataclass
class Auditing:
    """A sealer that a test moves by hand."""

    settings: Settings
    database: Database
    sealer: Sealer

    @property
    def keys(self) -> KeyRing:
        return KeyRing.read(self.settings.secret("audit-public.pem"))

    async def seal(self) -> None:
        """Everything that waits, without a checkpoint."""
        while await self.sealer.round():
            pass

    async def restart(self) -> None:
        """A new process: it knows what the files and the database say."""
        self.sealer = sealer_for(self.settings, self.database)

    async def verify(self, team: Any = None) -> Report:
        """Without what the sealer remembers: the files and the database only."""
        known = read(files_at(self.settings.checkpoint_directory), self.keys)
        return await verify(self.database, self.keys, known, team=team)


def sealer_for(settings: Settings, database: Database) -> Sealer:
    signer = Signer(settings.secret("audit-signing.pem"))
    keys = KeyRing.read(settings.secret("audit-public.pem"))
    files = CheckpointFiles(settings.checkpoint_directory, signer, months=settings.audit_checkpoint_months)
    sealer = Sealer(database, signer, keys, files, tag_key=settings.audit_key())
    sealer.remember(files.open(keys))
    return sealer


@asynccontextmanager
async def by_hand(settings: Settings, clone: Any) -> AsyncIterator[Auditing]:
    if not (settings.directory / "secrets").exists():
        make_secrets(Place(directory=settings.directory, tenant="acme"))
    async with Database(clone.role_url("sfp_auditor"), application="test auditor", size=4) as database:
        yield Auditing(settings, database, sealer_for(settings, database))


@asynccontextmanager
async def running(settings: Settings, clone: Any) -> AsyncIterator[None]:
    """The auditor's whole work; ready when its socket is there."""
    async with Database(clone.role_url("sfp_auditor"), application="test auditor", size=4) as database:
        working = asyncio.create_task(audit(settings, database))
        try:
            async with asyncio.timeout(10):
                while not settings.auditor_socket.exists():
                    assert not working.done(), working
                    await asyncio.sleep(0.01)
            yield
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
