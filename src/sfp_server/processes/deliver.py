"""The deliverer process: the relay from the event log to Valkey."""

from sfp_server.events import relay
from sfp_server.processes.signals import stop_signal, until_stopped
from sfp_server.settings import Settings


async def run(settings: Settings) -> None:
    """Relay until SIGTERM."""
    await until_stopped(stop_signal(), relay.run(settings))
