"""A person with a browser: keeps cookies, follows redirects and fills in the forms of a provider's pages."""

import html
import re
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx

from sfp_server.identity.flows import challenge_of, new_secret
from web_api import API, WebApi

LOOPBACK = "http://127.0.0.1:54329/callback"


@dataclass
class Client:
    """A native client that begins a sign-in and ends it: what it must remember in between."""

    redirect_to: str = LOOPBACK
    verifier: str = field(default_factory=new_secret)
    state: str = field(default_factory=new_secret)

    def parameters(self, provider: str | None) -> dict[str, str]:
        made = {
            "redirect_to": self.redirect_to,
            "code_challenge": challenge_of(self.verifier),
            "code_challenge_method": "S256",
            "state": self.state,
        }
        return made if provider is None else made | {"provider": provider}


class Browser:
    """One browser: our pages over ASGI with https, a provider's over real HTTP."""

    def __init__(self, api: WebApi, *, address: str = "192.0.2.7") -> None:
        self.api = api
        transport = httpx.ASGITransport(api.app, client=(address, 1234), raise_app_exceptions=False)
        self.ours = httpx.AsyncClient(transport=transport, base_url=api.settings.origin)
        self.theirs = httpx.AsyncClient(follow_redirects=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.ours.aclose()
        await self.theirs.aclose()

    async def leave(self, client: Client, provider: str = "corp") -> httpx.Response:
        """Begin: the answer that sends the browser to the provider."""
        return await self.ours.get(f"{API}/auth/authorize", params=client.parameters(provider))

    async def at_provider(self, url: str, account: str, *, home: str) -> str:
        """Sign in there as `account`; answers the URL at `home` to which the provider sends the browser back."""
        answer = await self.theirs.get(url)
        for _ in range(12):
            if answer.is_redirect:
                url = urljoin(url, answer.headers["location"])
                if url.startswith(home):
                    return url
                answer = await self.theirs.get(url)
                continue
            assert answer.status_code == 200, answer.text
            action, values = form_of(answer.text)
            url = urljoin(url, action)
            filled = values | ({"login": account, "password": "any"} if "login" in answer.text else {})
            answer = await self.theirs.post(url, data=filled)
        raise AssertionError("the provider goes in circles")

    async def back(self, url: str) -> httpx.Response:
        """Come back to us from the provider."""
        return await self.ours.get(url)

    async def whole(self, client: Client, account: str, provider: str = "corp") -> httpx.Response:
        """Away and back."""
        away = await self.leave(client, provider)
        assert away.status_code == 303, away.text
        home = f"{self.api.settings.origin}/"
        return await self.back(await self.at_provider(away.headers["location"], account, home=home))


def form_of(page: str) -> tuple[str, dict[str, str]]:
    """Where the first form of a page goes, and what it already has in it."""
    action = re.search(r'<form[^>]*action="([^"]*)"', page)
    assert action is not None, page
    inside = page[action.start() : page.index("</form>", action.start())]
    values = {}
    for tag in re.findall(r"<input[^>]*>", inside):
        name, value = re.search(r'name="([^"]*)"', tag), re.search(r'value="([^"]*)"', tag)
        if name and value:
            values[html.unescape(name[1])] = html.unescape(value[1])
    return html.unescape(action[1]), values


def query(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query, keep_blank_values=True).items()}


async def exchange(api: WebApi, client: Client, code: str, /, **changes: str) -> httpx.Response:
    """Turn a code into tokens, as the client that began."""
    body = {
        "grant_type": "authorization_code",
        "code": code,
        "code_verifier": client.verifier,
        "redirect_uri": client.redirect_to,
    }
    async with api.client() as http:
        return await http.post(f"{API}/auth/token", json=body | changes)
