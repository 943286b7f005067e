"""`sfp-server auth …`: sign in, look who you are, sign out."""

import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfp_client.cli import config, output
from sfp_client.cli.command import Session, command, group

if TYPE_CHECKING:
    from sfp_client.cli.keep import Account
    from sfp_client.client import Client
    from sfp_client.shapes import TokenPair

app = group("Sign in and out; see who you are.")


@command(
    app,
    "login",
    examples=[
        "sfp-server auth login --email admin@acme.local",
        "sfp-server auth login --provider github",
        "sfp-server auth login --no-browser",
        "sfp-server auth login --sfp-server-url https://sfp.example -e me@example.org --password-stdin < password.txt",
    ],
)
def login(
    session: Session,
    *,
    provider: Annotated[
        str | None, typer.Option("--provider", metavar="NAME", help="Sign in in the browser, through this provider.")
    ] = None,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Sign in with a code, on any device that has a browser.")
    ] = False,
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password from stdin.")] = False,
) -> None:
    """Sign in, and stay signed in on this machine: with a password, in the browser, or with a code.

    The password comes from --password-stdin, from SFP_SERVER_PASSWORD, or from a prompt; never from an argument. Where
    the server takes no passwords, the browser opens.
    """
    from sfp_client.cli import sign_in

    if no_browser and provider is not None:
        output.fail("--provider opens a browser: leave --no-browser out", code=output.USAGE)
    target = session.target()
    with session.client_of(target, None) as client:
        if no_browser:
            pair = sign_in.by_device(client)
        elif provider is not None or (
            not sign_in.password_given(os.environ, from_stdin=password_stdin) and sign_in.wants_browser(client)
        ):
            pair = sign_in.by_browser(client, provider, os.environ)
        else:
            pair = _by_password(session, client, target, from_stdin=password_stdin)
    _keep(session, target, client.url, pair)


def _by_password(session: Session, client: "Client", target: config.Target, *, from_stdin: bool) -> "TokenPair":
    """Ends the command when the server does not know the pair."""
    from sfp_client.errors import NotSignedIn

    email = session.flags.email or target.email or _ask("E-mail", "give --email or set SFP_SERVER_USER")
    try:
        return client.auth.login(email, _password(from_stdin=from_stdin))
    except NotSignedIn as error:
        detail = {"code": error.code, "status": error.status, "requestId": error.request_id}
        message = f"{client.url} does not know this e-mail and password: check both and try again"
        raise output.Failure(message, code=output.NOT_SIGNED_IN, detail=detail) from error


def _keep(session: Session, target: config.Target, url: str, pair: "TokenPair") -> None:
    """Store a new sign-in, and tell whose it is: the server's word, whatever was asked for."""
    from sfp_client.cli.keep import Account, SignIns

    user = pair.get("user", {})
    email = str(user.get("email") or session.flags.email or target.email)
    account = Account(
        url=url,
        email=email,
        kept_in="",
        ca_file=str(target.ca_file.absolute()) if target.ca_file else None,
        signed_in_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    kept = SignIns(os.environ).keep(account, pair)
    config.remember(os.environ, server_url=url, server_email=email)
    value = {"url": url, "email": email, "keptIn": kept.kept_in, "role": user.get("role")}
    session.show(value, f"signed in as {email} at {url}")


@command(app, "display", examples=["sfp-server auth display", "sfp-server auth display --show-token --json"])
def display(
    session: Session,
    *,
    show_token: Annotated[bool, typer.Option("--show-token", help="Show the access token too.")] = False,
) -> None:
    """Show who you are at the server: user, teams, roles."""
    with session.client() as client:
        user = client.auth.me()
        value: dict[str, Any] = {"url": client.url, **user}
        if show_token:
            value["accessToken"] = client.transport.token()
    teams = ", ".join(f"{team['slug']} ({team.get('role', '?')})" for team in user.get("teams", []))
    pairs = [(name, value.get(name)) for name in ("url", "email", "firstName", "lastName", "role")]
    session.show(value, output.facts([*pairs, ("teams", teams), ("accessToken", value.get("accessToken"))]))


@command(app, "list", examples=["sfp-server auth list", "sfp-server auth list --json"])
def list_accounts(session: Session) -> None:
    """List the sign-ins on this machine; asks no server."""
    from sfp_client.cli.keep import SignIns

    accounts = SignIns(os.environ).all()
    current = config.user_settings(os.environ)
    rows = [(*_facts(account), "yes" if _is_current(account, current) else "") for account in accounts]
    values = [_described(account) | {"isDefault": _is_current(account, current)} for account in accounts]
    columns = ("email", "server", "kept in", "signed in", "default")
    session.show(values, lambda: output.table(columns, rows, empty="nobody is signed in on this machine"))


@command(
    app,
    "sessions",
    examples=[
        "sfp-server auth sessions",
        "sfp-server auth sessions --end 0198f2d0-…",
        "sfp-server auth sessions --json",
    ],
)
def sessions(
    session: Session,
    *,
    end: Annotated[str | None, typer.Option("--end", metavar="ID", help="End this session.")] = None,
) -> None:
    """List where you are signed in at the server, on all machines; or end one of these sessions."""
    with session.client() as client:
        if end is not None:
            client.auth.end_session(end)
            session.show({"id": end, "ended": True}, f"session {end} has ended")
            return
        items = client.auth.sessions()
    columns = ("id", "lastUsedAt", "address", "userAgent", "isCurrent")
    rows = [[item.get(column) for column in columns] for item in items]
    session.show({"items": items}, lambda: output.table(columns, rows, empty="there are no sessions"))


@command(app, "refresh", examples=["sfp-server auth refresh"])
def refresh(session: Session) -> None:
    """Renew the access token now; commands do this by themselves when it is due."""
    if session.target().token is not None:
        output.fail("an application token is never renewed: make a new one with sfp-server application-token create")
    with session.client() as client:
        source = client.transport.source
        assert source is not None  # client() ends the command when nobody is signed in
        rejected = client.transport.token()
        source.renew(rejected or "")
        session.show({"url": client.url, "refreshed": True}, f"the sign-in at {client.url} is renewed")


@command(
    app,
    "clear",
    examples=["sfp-server auth clear", "sfp-server auth clear --all", "sfp-server auth clear --everywhere"],
)
def clear(
    session: Session,
    *,
    everyone: Annotated[bool, typer.Option("--all", help="All sign-ins on this machine.")] = False,
    everywhere: Annotated[
        bool, typer.Option("--everywhere", help="End all sessions of the user, on other machines too.")
    ] = False,
) -> None:
    """Sign out: end the session on the server and forget its tokens here."""
    from sfp_client.cli.keep import SignIns
    from sfp_client.transport import normal_url

    sign_ins = SignIns(os.environ)
    if everyone:
        accounts = sign_ins.all_or_none()
    else:
        target = session.target()
        found = sign_ins.find(normal_url(target.url), target.email)
        accounts = [found] if found else []
    for account in accounts:
        _end(session, account, everywhere=everywhere)
        sign_ins.forget(account)
    current = config.user_settings(os.environ)
    if any(_is_current(account, current) for account in accounts):
        config.remember(os.environ, server_url=None, server_email=None)
    said = ", ".join(account.name for account in accounts)
    session.show(
        {"cleared": [_described(account) for account in accounts]},
        f"signed out: {said}" if said else "nobody was signed in",
    )


def _end(session: Session, account: "Account", *, everywhere: bool) -> None:
    """End the session on the server; a server that cannot be asked does not keep us from forgetting it."""
    from sfp_client.errors import ClientError, NotSignedIn

    flags = config.Flags(url=account.url, email=account.email, ca_file=session.flags.ca_file)
    target = Session(flags=flags, as_json=session.as_json).target()
    try:
        with session.client_as(target, account) as client:
            client.auth.logout_everywhere() if everywhere else client.auth.logout()
    except NotSignedIn:
        return  # it had ended already
    except ClientError as error:
        output.note(f"{account.url} could not be told ({error}); the tokens are forgotten here")


def _facts(account: "Account") -> tuple[str, str, str, str]:
    return account.email, account.url, account.kept_in, account.signed_in_at


def _described(account: "Account") -> dict[str, Any]:
    return dict(zip(("email", "url", "keptIn", "signedInAt"), _facts(account), strict=True))


def _is_current(account: "Account", settings: dict[str, str]) -> bool:
    return (account.url, account.email) == (settings.get("server-url"), settings.get("server-email"))


def _password(*, from_stdin: bool) -> str:
    """Raises Failure when there is none and nobody to ask."""
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    given = os.environ.get("SFP_SERVER_PASSWORD")
    return given or _ask("Password", "use --password-stdin or set SFP_SERVER_PASSWORD", hidden=True)


def _ask(what: str, otherwise: str, *, hidden: bool = False) -> str:
    """Ask the person at the terminal; without one, say what to give instead."""
    if not sys.stdin.isatty():
        output.fail(f"{what.lower()} is missing: {otherwise}", code=output.USAGE)
    answer: str = typer.prompt(what, hide_input=hidden, err=True)
    return answer
