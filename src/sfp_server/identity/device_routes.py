"""The device flow over HTTP: codes for the device, consent of its user. The page for people is in `device_page.py`."""

from typing import Annotated, Literal

import msgspec
from litestar import post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from sfp_server.actor import Actor
from sfp_server.db.database import Database
from sfp_server.identity.device import INTERVAL, LIFE, DeviceFlow
from sfp_server.identity.routes import Signed, caller_of, signed_answer
from sfp_server.settings import Settings
from sfp_server.web.guard import PUBLIC
from sfp_server.web.wire import ApiRequest, SnakeWire

_GRANT = "urn:ietf:params:oauth:grant-type:device_code"

UserCode = Annotated[str, msgspec.Meta(min_length=1, max_length=40)]


class DeviceAsks(SnakeWire):
    """RFC 8628 sends a client id; there is one kind of client here, so it says nothing."""

    client_id: Annotated[str, msgspec.Meta(max_length=200)] = ""
    scope: Annotated[str, msgspec.Meta(max_length=200)] = ""


class DeviceAuthorization(SnakeWire):
    device_code: str
    user_code: str
    verification_uri: str
    verification_uri_complete: str
    #: seconds
    expires_in: int
    #: seconds between two polls
    interval: int


class DevicePoll(SnakeWire):
    device_code: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    grant_type: Literal["urn:ietf:params:oauth:grant-type:device_code"] = _GRANT
    client_id: Annotated[str, msgspec.Meta(max_length=200)] = ""


class DeviceDecision(SnakeWire):
    user_code: UserCode
    decision: Literal["approve", "deny"] = "approve"


class Decided(SnakeWire):
    success: bool
    decision: str
    #: what the device says of itself, and where it asked from
    client: str
    address: str


@post("/auth/device/code", opt={"scope": PUBLIC, "form": True}, status_code=200)
async def device_code(
    data: JSONBody[DeviceAsks],
    request: ApiRequest,
    device_flow: NamedDependency[DeviceFlow],
    settings: NamedDependency[Settings],
) -> DeviceAuthorization:
    """Ask for the two codes of a device that has no browser (RFC 8628)."""
    del data
    codes = await device_flow.begin(caller_of(request))
    page = f"{settings.origin}/sfp/api/auth/device"
    return DeviceAuthorization(
        device_code=codes.device_code,
        user_code=codes.user_code,
        verification_uri=page,
        verification_uri_complete=f"{page}?user_code={codes.user_code}",
        expires_in=LIFE,
        interval=INTERVAL,
    )


@post("/auth/device/token", opt={"scope": PUBLIC, "form": True}, status_code=200)
async def device_token(
    data: JSONBody[DevicePoll],
    request: ApiRequest,
    device_flow: NamedDependency[DeviceFlow],
    db: NamedDependency[Database],
) -> Signed:
    """Tokens, once the user has agreed; until then 400 with `error`: `authorization_pending`, `slow_down`, …"""
    return await signed_answer(db, await device_flow.poll(data.device_code, caller_of(request)))


@post("/auth/device/approve", opt={"scope": "users:self"}, status_code=200)
async def device_approve(
    data: JSONBody[DeviceDecision],
    request: ApiRequest,
    actor: NamedDependency[Actor],
    device_flow: NamedDependency[DeviceFlow],
) -> Decided:
    """Let the device that shows this code act as you, or refuse it. Only ever for a device that is in front of you."""
    approve = data.decision == "approve"
    device = await device_flow.decide(data.user_code, actor.id, caller_of(request), approve=approve)
    return Decided(success=True, decision=data.decision, client=device.client, address=device.address)


ROUTES = [device_code, device_token, device_approve]
