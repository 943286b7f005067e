"""Signing in with GitHub: OAuth with PKCE, then who the token belongs to and which address GitHub has verified.

GitHub is no OpenID provider: it signs nothing, so everything rests on our own calls to it. The access token is used
for two questions and forgotten.
"""

from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import urlencode, urlsplit

from sfp_server.errors import ProviderFailed, SignInRefused
from sfp_server.identity.external import ExternalIdentity, Provider, Sent
from sfp_server.identity.flows import challenge_of, derived
from sfp_server.identity.openid import checked_url, error_of, fetched, fetched_json
from sfp_server.outgoing import Outgoing

_HOME = "https://github.com"


class GitHub:
    """The method `github`: `config` is `{clientId, baseUrl, apiUrl}`; the URLs are others on GitHub Enterprise."""

    def __init__(self, outgoing: Outgoing) -> None:
        self._outgoing = outgoing

    async def check(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """As `Method.check`; nothing is asked: GitHub has no call that only asks."""
        base = checked_url({"baseUrl": config.get("baseUrl") or _HOME}, "baseUrl").rstrip("/")
        api = config.get("apiUrl") or (f"{base}/api/v3" if base != _HOME else "https://api.github.com")
        return {
            "clientId": config["clientId"],
            "baseUrl": base,
            "apiUrl": checked_url({"apiUrl": api}, "apiUrl").rstrip("/"),
        }

    async def send(self, provider: Provider, *, state: str, browser: str, redirect_uri: str) -> Sent:
        """As `Method.send`."""
        parameters = {
            "client_id": provider.config["clientId"],
            "redirect_uri": redirect_uri,
            "scope": "read:user user:email",
            "state": state,
            "code_challenge": challenge_of(derived(browser, state, "verifier")),
            "code_challenge_method": "S256",
            "allow_signup": "false",
        }
        return Sent(url=f"{provider.config['baseUrl']}/login/oauth/authorize?{urlencode(parameters)}")

    async def identify(
        self,
        provider: Provider,
        answer: Mapping[str, str],
        *,
        secret: str | None,
        state: str,
        browser: str,
        redirect_uri: str,
    ) -> ExternalIdentity:
        """Who signed in, by GitHub's answer. Raises SignInRefused, ProviderFailed."""
        refused = error_of(answer)
        if refused is not None:
            raise refused
        form = {
            "client_id": provider.config["clientId"],
            "client_secret": secret or "",
            "code": answer.get("code", "")[:4096],
            "redirect_uri": redirect_uri,
            "code_verifier": derived(browser, state, "verifier"),
        }
        token = await self._token(f"{provider.config['baseUrl']}/login/oauth/access_token", form)
        headers = {
            "authorization": f"Bearer {token}",
            "accept": "application/vnd.github+json",
            "x-github-api-version": "2022-11-28",
        }
        api = provider.config["apiUrl"]
        user = await fetched(self._outgoing, "GET", f"{api}/user", headers=headers)
        addresses = await fetched_json(self._outgoing, "GET", f"{api}/user/emails", headers=headers)
        return _identity(provider, user, addresses)

    async def _token(self, url: str, form: Mapping[str, str]) -> str:
        """GitHub tells errors of this call with status 200. Raises SignInRefused, ProviderFailed."""
        told = await fetched(self._outgoing, "POST", url, data=form, headers={"accept": "application/json"})
        if "error" in told:
            raise SignInRefused("GitHub does not confirm this sign-in: begin again", reason="provider_refused")
        token = told.get("access_token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise ProviderFailed(f"{urlsplit(url).hostname} sent no access token")
        return token


def _identity(provider: Provider, user: Mapping[str, Any], addresses: object) -> ExternalIdentity:
    """The account by its number (names change hands), with its primary address."""
    number = user.get("id")
    if not isinstance(number, int) or isinstance(number, bool) or not isinstance(addresses, list):
        raise ProviderFailed("GitHub sent something else than was asked for")
    listed = [cast("dict[str, Any]", one) for one in cast("list[object]", addresses) if isinstance(one, dict)]
    nothing: dict[str, Any] = {}
    primary = next((one for one in listed if one.get("primary") is True), nothing)
    name = user.get("name")
    first, _, last = name.partition(" ") if isinstance(name, str) else ("", "", "")
    return ExternalIdentity(
        provider_id=provider.id,
        subject=str(number),
        email=str(primary.get("email", "")),
        email_verified=primary.get("verified") is True,
        first_name=first,
        last_name=last,
    )
