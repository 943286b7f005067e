"""The command line signs in without a password of its own: in a browser, and by a code; against the real API on a port."""

import asyncio
import webbrowser
from dataclasses import replace
from urllib.parse import urljoin

import httpx
import pytest
import uvicorn

import web_api
from browser import form_of
from client_double import free_port
from sfp_client import Client
from sfp_client.cli import sign_in
from sfp_client.cli.output import Failure
from web_api import PASSWORD

DESKTOP = {"DISPLAY": ":0"}


@pytest.fixture
async def url(clone, admin, valkey_url, tmp_path):
    port = free_port()
    origin = f"http://127.0.0.1:{port}"
    settings = replace(web_api.settings_for(tmp_path, clone, valkey_url), public_url=origin)
    async with web_api.running(settings, admin) as api:
        await api.owner()
        server = uvicorn.Server(uvicorn.Config(api.app, port=port, lifespan="off", log_config=None, ws="none"))
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0)
        yield origin
        server.should_exit = True
        await serving


def fills_in(password):
    """A browser whose person uses the form, and follows where it leads."""

    def opened(url):
        with httpx.Client() as browser:
            page = browser.get(url)
            action, values = form_of(page.text)
            filled = values | {"email": "ann@acme.example", "password": password}
            answer = browser.post(urljoin(url, action), data=filled)
            if answer.is_redirect:
                assert "signed in" in httpx.get(answer.headers["location"]).text
        return True

    return opened


async def test_a_browser_of_this_machine_signs_the_command_line_in(url, monkeypatch, capsys):
    monkeypatch.setattr(webbrowser, "open", fills_in(PASSWORD))

    def signed_in():
        with Client(url) as client:
            pair = sign_in.by_browser(client, None, DESKTOP)
        with Client(url, pair["access_token"]) as client:
            return client.auth.me()["email"]

    assert await asyncio.to_thread(signed_in) == "ann@acme.example"
    said = capsys.readouterr()
    assert ("redirect_to=" in said.err, "redirect_to=" in said.out) == (True, False)


async def test_without_a_desktop_the_page_is_named(url, monkeypatch, capsys):
    def never(_url):
        raise AssertionError("a browser was opened")

    monkeypatch.setattr(webbrowser, "open", never)
    monkeypatch.setattr(sign_in.Loopback, "wait", lambda _self: ("unknown-code", "v" * 43))

    def refused():
        with Client(url) as client, pytest.raises(Exception, match="valid token"):
            sign_in.by_browser(client, None, {})

    await asyncio.to_thread(refused)
    assert f"{url}/sfp/api/auth/authorize?" in capsys.readouterr().err


@pytest.mark.parametrize("approve", [True, False])
async def test_a_code_is_approved_or_refused_on_another_device(url, approve, capsys):
    seconds = []

    def decides(client):
        def sleep(interval):
            seconds.append(interval)
            code = next(line.strip() for line in capsys.readouterr().err.splitlines() if len(line.strip()) == 9)
            with Client(url) as other:
                other.auth.login("ann@acme.example", PASSWORD)
                other.auth.decide_device(code, approve=approve)

        return sign_in.by_device(client, sleep=sleep)

    def signed_in():
        with Client(url) as client:
            pair = decides(client)
        with Client(url, pair["access_token"]) as client:
            return client.auth.me()["email"]

    if approve:
        assert await asyncio.to_thread(signed_in) == "ann@acme.example"
    else:
        with pytest.raises(Failure, match="refused on the other device"):
            await asyncio.to_thread(signed_in)
    assert len(seconds) == 1


async def test_the_sdk_sets_providers(url):
    def managed():
        with Client(url) as client:
            client.auth.login("ann@acme.example", PASSWORD)
            made = client.providers.set("hub", kind="github", clientId="id", clientSecret="s", enabled=False)
            listed = [row["providerId"] for row in client.providers.list()]
            client.providers.remove("hub")
            return made["redirectUri"], listed, client.providers.list(), sign_in.wants_browser(client)

    redirect, listed, after, wants = await asyncio.to_thread(managed)
    assert redirect == f"{url}/sfp/api/auth/callback/hub"
    assert (listed, after, wants) == (["hub"], [], False)
