"""The courier process: the port for dispatchers on other machines. Runs only where `dispatchers.listen` is set."""

from dataclasses import asdict

from sfp_server.db.database import Database
from sfp_server.processes.dispatch import limits_of
from sfp_server.processes.signals import stop_signal, until_stopped
from sfp_server.remote import tls
from sfp_server.remote.courier import Courier
from sfp_server.remote.errands import Errands
from sfp_server.remote.wire import Facts
from sfp_server.settings import Settings, SettingsError
from sfp_server.tasks.artifacts import ArtifactStore
from sfp_server.version import VERSION


async def run(settings: Settings) -> None:
    """Serve until SIGTERM. Raises SettingsError."""
    address = settings.listen_address()
    if address is None:
        raise SettingsError("dispatchers.listen is not set: nobody outside is to be served")
    stopping = stop_signal()
    limits = limits_of(settings)
    async with Database(settings.role_url("sfp_courier"), application="sfp courier", size=4) as database:
        errands = Errands(
            database,
            ArtifactStore(settings.directory / "artifacts"),
            ca=settings.secret("network-ca.crt"),
            facts=_facts(settings),
            limit=limits.artifact_bytes,
        )
        errands.remove_abandoned()
        courier = Courier(
            errands,
            tls=tls.serving(str(settings.secret_file("courier-tls.pem"))),
            broker=settings.remote_broker_socket,
            database=None if settings.database_url else settings.run_directory / "postgres" / ".s.PGSQL.5432",
        )
        await until_stopped(stopping, courier.serve(*address))


def _facts(settings: Settings) -> Facts:
    return Facts(
        name="",
        slots=0,
        lease_seconds=settings.lease_seconds,
        grace_seconds=settings.grace_seconds,
        team_active_max=settings.team_active_max,
        preemptions_max=settings.preemptions_max,
        limits=asdict(limits_of(settings)),
        version=VERSION,
    )
