"""Gives every command the common options, and the session that they describe."""

import functools
import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfp_client.cli import config, output

if TYPE_CHECKING:
    from sfp_client.cli.keep import Account
    from sfp_client.client import Client

#: the options that every command takes, in the order of `--help`
COMMON = {
    "url": Annotated[
        str | None, typer.Option("--sfp-server-url", metavar="URL", help="Server to ask [SFP_SERVER_URL].")
    ],
    "token": Annotated[
        str | None,
        typer.Option(
            "--application-token",
            "-t",
            metavar="TOKEN",
            help="Application token; others on this machine can see it here: better SFP_SERVER_TOKEN.",
        ),
    ],
    "email": Annotated[
        str | None, typer.Option("--email", "-e", metavar="EMAIL", help="Act as this signed-in user [SFP_SERVER_USER].")
    ],
    "team": Annotated[str | None, typer.Option("--team", metavar="SLUG", help="Team, when you have several.")],
    "ca_file": Annotated[
        Path | None,
        typer.Option("--ca-file", metavar="PEM", help="Certificates trusted in addition [SFP_EXTRA_CA_FILE]."),
    ],
    "as_json": Annotated[bool, typer.Option("--json", help="Print exactly one JSON value.")],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What the common options say: which server, as whom, and how to print."""

    flags: config.Flags
    as_json: bool

    def target(self) -> config.Target:
        """Which server, and as whom; certificates are remembered from the sign-in when nothing names them."""
        from sfp_client.cli.keep import SignIns
        from sfp_client.transport import normal_url

        target = config.from_process(self.flags)
        if target.ca_file is not None or not target.url.startswith("https:"):
            return target
        account = SignIns(os.environ).find(normal_url(target.url), None)
        known = Path(account.ca_file) if account and account.ca_file else None
        return replace(target, ca_file=known if known and known.is_file() else None)

    def client(self) -> "Client":
        """A client for the target, acting as whom the options say. Ends the command when nobody is signed in."""
        from sfp_client.cli.keep import SignIns
        from sfp_client.transport import normal_url

        target = self.target()
        if target.token is not None:
            return self.client_of(target, target.token)
        account = SignIns(os.environ).find(normal_url(target.url), target.email)
        if account is None:
            who = f" as {target.email}" if target.email else ""
            output.fail(
                f"not signed in at {target.url}{who}: run sfp-server auth login, or set SFP_SERVER_TOKEN",
                code=output.NOT_SIGNED_IN,
            )
        return self.client_as(target, account)

    def client_of(self, target: config.Target, token: str | None) -> "Client":
        """A client with a given token, or with none."""
        from sfp_client.client import Client

        return Client(target.url, token, team=target.team, ca_file=target.ca_file)

    def client_as(self, target: config.Target, account: "Account") -> "Client":
        """A client that acts as a signed-in user and keeps the sign-in alive."""
        from sfp_client.cli.keep import Kept, SignIns
        from sfp_client.client import Client
        from sfp_client.renewal import SignIn

        client = Client(target.url, team=target.team, ca_file=target.ca_file)
        client.transport.source = SignIn(Kept(SignIns(os.environ), account), client.auth.exchange)
        return client

    def show(self, value: Any, text: str | Callable[[], str | None] | None = None) -> None:
        """Print the result, as the options say."""
        output.show(value, as_json=self.as_json, text=text)


def command(
    app: typer.Typer, name: str, *, examples: Sequence[str], context_settings: dict[str, Any] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function whose first parameter is the Session as a command with the common options."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(**options: Any) -> None:
            common = {key: options.pop(key) for key in COMMON}
            as_json = common.pop("as_json")
            function(Session(flags=config.Flags(**common), as_json=as_json), **options)

        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        added = [_parameter(key, annotation) for key, annotation in COMMON.items()]
        parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in [*own, *added]]
        run.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportAttributeAccessIssue] (read by Typer)
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app.command(name, help=_help(function, examples), context_settings=context_settings)(run)
        return function

    return register


def group(text: str) -> typer.Typer:
    """A group of commands, described by one sentence."""
    app = typer.Typer(help=text, no_args_is_help=True, rich_markup_mode=None, add_completion=False)
    app.callback()(_nothing)  # so that it stays a group with one command too
    return app


def _nothing() -> None:
    pass


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    default = False if name == "as_json" else None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _help(function: Callable[..., None], examples: Sequence[str]) -> str:
    """The docstring and the examples, whose lines Typer is told to keep as they are."""
    lines = "\n".join(f"  {example}" for example in examples)
    return f"{inspect.getdoc(function) or ''}\n\n\b\nExamples:\n{lines}"
