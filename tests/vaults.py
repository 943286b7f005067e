"""A vault with real keys in a file, and the broker's parts that use them, for tests without a broker process."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sfp_server.credentials.broker import Broker, Listener
from sfp_server.credentials.desk import Desk
from sfp_server.credentials.keyring import KeyRing
from sfp_server.credentials.leasing import Leasing
from sfp_server.credentials.public import PublicKeys
from sfp_server.credentials.returns import Returns
from sfp_server.credentials.ring import Ring
from sfp_server.credentials.sources.base import ValueSource
from sfp_server.credentials.sources.local import FileSource
from sfp_server.credentials.vault import Opener
from sfp_server.db.database import Database
from sfp_server.settings import Settings

KEY = "the-key-of-the-broker"


@dataclass
class Vault:
    """One instance's keys."""

    file: Path
    public: PublicKeys
    #: where referred values are kept
    sources: dict[str, ValueSource] = field(default_factory=dict)

    @classmethod
    def made(cls, file: Path, vouching: str = KEY, sources: Mapping[str, ValueSource] | None = None) -> "Vault":
        ring = Ring.fresh()
        file.write_text(ring.text())
        return cls(file, PublicKeys(vouching=vouching.encode(), first=ring.public(1)), dict(sources or {}))

    @classmethod
    def of(cls, settings: Settings, key: str) -> "Vault":
        """The vault that `init` made for an instance."""
        public = PublicKeys(vouching=key.encode(), first=bytes.fromhex(settings.secret("vault-public")))
        return cls(settings.vault_directory / "keys", public)

    @asynccontextmanager
    async def running(self, database: Database, settings: Settings) -> AsyncIterator[None]:
        """A broker with its desk, once it listens."""
        broker = asyncio.create_task(self.serve(database, settings.broker_socket, settings.broker_desk))
        async with asyncio.timeout(10):
            while not settings.broker_desk.exists():
                await asyncio.sleep(0.01)
        try:
            yield
        finally:
            broker.cancel()
            await asyncio.gather(broker, return_exceptions=True)

    @property
    def ring(self) -> Ring:
        """As it is on the disk."""
        return Ring.parse(self.file.read_text())

    @property
    def opener(self) -> Opener:
        return self.ring.opener()

    def keyring(self, database: Database) -> KeyRing:
        return KeyRing(FileSource(self.file), database, vouching=self.public.vouching)

    async def serve(self, database: Database, socket: Path, desk: Path | None = None) -> None:
        """What the broker process does, until cancelled."""
        keys = self.keyring(database)
        leasing = Leasing(database, self.sources)
        async with asyncio.TaskGroup() as group:
            group.create_task(keys.run())
            group.create_task(Listener(Broker(keys, leasing).answer).serve(socket))
            if self.sources:
                group.create_task(Returns(database, self.sources).run())
            if desk is not None:
                answering = Desk(database=database, keys=keys, key=self.public.vouching.decode())
                group.create_task(Listener(answering.answer).serve(desk))
