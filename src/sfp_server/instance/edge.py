"""Asking the API and the edge whether they answer, as a client on this machine would."""

import http.client
import json
import shutil
import ssl
import subprocess

from sfp_server.instance import binaries
from sfp_server.instance.place import Place
from sfp_server.settings import Settings


def health(api_port: int) -> str | None:
    """healthy, degraded or unhealthy by the API's own word; None when it does not answer."""
    connection = http.client.HTTPConnection("127.0.0.1", api_port, timeout=3)
    try:
        connection.request("GET", "/health")
        status = json.loads(connection.getresponse().read(4096)).get("status")
    except (OSError, http.client.HTTPException, ValueError, AttributeError):
        return None
    finally:
        connection.close()
    return status if isinstance(status, str) else None


def has_own_authority(settings: Settings) -> bool:
    """True where Caddy signs the certificate itself: on this machine only. Else it gets one by ACME."""
    return settings.mode == "dev" or settings.domain == "localhost"


def answers(at: Place, settings: Settings) -> bool:
    """True when the edge finishes a TLS handshake and passes /health on.

    With Caddy's own authority the certificate is verified against it. A public certificate is not
    verified here, and may still be on its way (`doctor` says so): an edge that listens is enough, because it
    has to run to get one.
    """
    local = has_own_authority(settings)
    if local and not at.edge_root.is_file():
        return False
    context = ssl.create_default_context(cafile=str(at.edge_root) if local else None)
    if not local:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    name = "localhost" if settings.mode == "dev" else settings.domain
    connection = http.client.HTTPConnection("127.0.0.1", settings.port, timeout=3)
    try:
        connection.connect()
        # the request goes to this machine whatever the name says; the name counts for TLS only
        connection.sock = context.wrap_socket(connection.sock, server_hostname=name)
        connection.request("GET", "/health", headers={"Host": f"{name}:{settings.port}"})
        return connection.getresponse().status == http.HTTPStatus.OK
    except ssl.SSLError:
        return not local
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def complaint(at: Place) -> str | None:
    """What Caddy has against its configuration; `caddy run` itself dies without a word."""
    done = subprocess.run(
        [str(binaries.caddy()), "validate", "--config", str(at.directory / "Caddyfile"), "--adapter", "caddyfile"],
        capture_output=True,
        text=True,
        env={"HOME": str(at.directory), "XDG_DATA_HOME": str(at.directory / "caddy")},
        check=False,
        timeout=30,
    )
    lines = done.stderr.strip().splitlines()
    return lines[-1][-300:] if done.returncode != 0 and lines else None


def publish_root(at: Place, settings: Settings) -> None:
    """Copy the edge's public root certificate to `ca.crt`, where clients look for it."""
    if has_own_authority(settings) and at.edge_root.is_file():
        shutil.copyfile(at.edge_root, at.edge_root_copy)
        at.edge_root_copy.chmod(0o600)
