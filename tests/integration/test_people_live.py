"""Teams as clients use them: the command line, and a socket whose right has ended."""

import asyncio
import io
import json
import socket
from collections.abc import AsyncIterator

import pytest
import uvicorn
from structlog.testing import capture_logs
from websockets.asyncio.client import connect

from live_api import Client
from sfp_client.cli import main
from web_api import API, PASSWORD


@pytest.fixture
async def port(api) -> AsyncIterator[int]:
    """Where the application listens."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(api.app, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server._serve([listener]))
    yield listener.getsockname()[1]
    server.should_exit = True
    await serving


async def test_a_socket_is_told_that_its_right_has_ended_within_two_seconds(api, port):
    owner, member = await api.owner(), await api.member()
    address = f"ws://127.0.0.1:{port}{API}/realtime"
    headers = {"Authorization": f"Bearer {member}"}
    async with connect(address, subprotocols=["sfp.v1"], additional_headers=headers, proxy=None) as connection:
        viewer = Client(connection)
        await viewer.subscribe("team")
        async with api.client(owner) as client:
            await client.put(f"{API}/teams/acme/members/max@acme.example/role", json={"role": "owner"})
            told = await viewer.next(2)
            assert (told["event"], told["data"]["role"]) == ("team.member_role_changed", "owner")
            await client.delete(f"{API}/teams/acme/members/max@acme.example")
        last = await viewer.next(2)
        if last["type"] == "event":  # its own removal, when that was faster
            last = await viewer.next(2)
        assert last == {"type": "gone", "channel": "team"}


@pytest.fixture
async def cli(api, port, monkeypatch, capsys, tmp_path):
    """Runs a command line as the owner; answers the exit status and the JSON value."""
    monkeypatch.setenv("SFP_SERVER_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("SFP_SERVER_TOKEN", await api.owner())
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)

    async def run(*arguments: str):
        capsys.readouterr()
        with capture_logs():  # of the server, which shares our stdout
            code = await asyncio.to_thread(main.run, [*arguments, "--json"], "sfp-server")
        return code, json.loads(capsys.readouterr().out)

    return run


async def test_users_and_teams_on_the_command_line(api, cli, monkeypatch):
    code, made = await cli("user", "add", "max@acme.example", "--first-name", "Max")
    assert (code, made["role"], made["firstName"]) == (0, "member", "Max")
    assert (await cli("user", "list", "--role", "member"))[1]["total"] == 1
    assert (await cli("team", "create", "core", "--name", "Core"))[1]["role"] == "owner"
    assert [team["slug"] for team in (await cli("team", "list"))[1]["items"]] == ["acme", "core"]
    assert (await cli("team", "add-member", "core", "max@acme.example"))[1]["role"] == "member"
    assert (await cli("user", "list", "--team", "core"))[1]["total"] == 2
    assert (await cli("team", "set-role", "core", "max@acme.example", "owner"))[1]["role"] == "owner"
    members = (await cli("team", "members", "core", "--role", "owner"))[1]
    assert [member["email"] for member in members["members"]] == ["ann@acme.example", "max@acme.example"]
    assert (await cli("team", "remove-member", "core", "max@acme.example"))[0] == 0
    code, refusal = await cli("team", "remove-member", "core", "ann@acme.example")
    assert (code, refusal["error"]["code"]) == (1, "last_owner")
    assert (await cli("team", "delete", "core"))[0] == 0
    assert (await cli("team", "members", "core"))[0] == 3
    assert (await cli("user", "delete", "max@acme.example"))[0] == 0
    monkeypatch.setattr("sys.stdin", io.StringIO(PASSWORD + "\n"))
    assert (await cli("user", "add", "bea@acme.example", "--role", "owner", "--password-stdin"))[0] == 0
    assert (await api.login("bea@acme.example")).status_code == 200
