"""The API process: uvicorn with limits of its own below HTTP.

Several may share the port (SO_REUSEPORT). It starts without its database and answers 503 until that is there.
On SIGTERM it stops listening at once, gives running requests three seconds, then cuts what is left (streams).
"""

import asyncio
import os
import resource
import socket

import structlog
import uvicorn
import uvloop

from sfp_server.alive import alive
from sfp_server.app import create_app
from sfp_server.settings import Settings, SettingsError
from sfp_server.web.protocol import BoundedProtocol

#: seconds
_KEEP_ALIVE = 75
_GRACE = 3
#: bytes of one WebSocket message from a client
_WS_MESSAGE = 64 * 1024

_log = structlog.get_logger("api")


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises SettingsError."""
    _allow_many_connections()
    config = uvicorn.Config(
        create_app(settings),
        loop="none",
        http=BoundedProtocol,
        ws="websockets-sansio",
        ws_max_size=_WS_MESSAGE,
        ws_ping_interval=20,
        ws_ping_timeout=20,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # whose word counts about addresses: web/forwarded.py
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=_GRACE,
        backlog=2048,
    )
    server = uvicorn.Server(config)
    listener = _listen(settings.api_port)
    _log.info("serving", port=settings.api_port)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(alive(settings.run_directory, os.getpid(), server.serve(sockets=[listener])))


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        listener.close()
        raise SettingsError(f"port {port} of 127.0.0.1 cannot be used: {error.strerror}") from error
    return listener


def _allow_many_connections() -> None:
    """A stalled connection costs a descriptor: as many as the kernel lets us have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else max(soft, 65_536)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, 65_536) if soft < 65_536 else soft, hard))
