"""Signing in without a password on the command line: in a browser here, or with a code on another device."""

import sys
import time
import webbrowser
from collections.abc import Callable, Mapping
from contextlib import suppress

from sfp_client.cli import output
from sfp_client.client import Client
from sfp_client.errors import ApiError, ClientError
from sfp_client.loopback import Loopback
from sfp_client.shapes import TokenPair
from sfp_client.transport import PREFIX

#: what RFC 8628 adds to the interval when the server asks to slow down, seconds
_SLOWER = 5


def by_browser(client: Client, provider: str | None, environ: Mapping[str, str]) -> TokenPair:
    """Sign in in the browser of this machine. Ends the command when that fails."""
    with Loopback(client.url + PREFIX, provider) as loopback:
        url = loopback.url
        if not _opens(environ) or not _opened(url):
            output.note(f"open this page in a browser on this machine:\n\n  {url}\n")
        else:
            output.note(f"a browser opens to sign you in; if it does not, open:\n\n  {url}\n")
        output.note("waiting for the sign-in (elsewhere than on this machine, use --no-browser)")
        try:
            code, verifier = loopback.wait()
        except ClientError as error:
            raise output.Failure(str(error), code=output.NOT_SIGNED_IN, detail={"code": "sign_in_refused"}) from error
        return client.auth.redeem(code, verifier, loopback.redirect_uri)


def by_device(client: Client, *, sleep: Callable[[float], None] = time.sleep) -> TokenPair:
    """Sign in by a code that is typed into a page on another device. Ends the command when that fails."""
    codes = client.auth.begin_device()
    output.note(
        f"on any device, open\n\n  {codes['verification_uri']}\n\nand enter the code\n\n  {codes['user_code']}\n\n"
        "waiting for your consent"
    )
    interval, ends = float(codes["interval"]), time.monotonic() + codes["expires_in"]
    while time.monotonic() < ends:
        sleep(interval)
        try:
            pair = client.auth.poll_device(codes["device_code"])
        except ApiError as error:
            if error.code == "slow_down":
                interval += _SLOWER
                continue
            raise output.Failure(_WHY.get(error.code, str(error)), code=output.NOT_SIGNED_IN) from error
        if pair is not None:
            return pair
    raise output.Failure(_WHY["expired_token"], code=output.NOT_SIGNED_IN)


_WHY = {
    "access_denied": "the sign-in was refused on the other device",
    "expired_token": "nobody entered the code in time: run the command again",
}


def _opens(environ: Mapping[str, str]) -> bool:
    """Whether there is a desktop for a browser to open on; one in the terminal would be in the way."""
    if environ.get("BROWSER"):
        return True
    return sys.platform != "linux" or bool(environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY"))


def _opened(url: str) -> bool:
    with suppress(webbrowser.Error, OSError):
        return webbrowser.open(url)
    return False


def wants_browser(client: Client) -> bool:
    """Whether the server takes no passwords, so that asking for one is in vain."""
    try:
        return client.health.configuration().get("sso", {}).get("passwordLogin") == "off"
    except ApiError:
        return False


def password_given(environ: Mapping[str, str], *, from_stdin: bool) -> bool:
    """Whether the caller has brought a password along."""
    return from_stdin or bool(environ.get("SFP_SERVER_PASSWORD"))
