"""`sfp-server health`: how the server is, seen as a client sees it."""

import time
from typing import Annotated, Any, cast

import typer

from sfp_client.cli import output
from sfp_client.cli.command import Session, command

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@command(app, "health", examples=["sfp-server health", "sfp-server health -d --check-auth --json"])
def health(
    session: Session,
    *,
    details: Annotated[
        bool, typer.Option("--details", "-d", help="Components, queues and resources; needs a sign-in.")
    ] = False,
    check_auth: Annotated[bool, typer.Option("--check-auth", help="Also whether your sign-in is taken.")] = False,
) -> None:
    """Ask the server how it is. Exit status 1 when it is unhealthy, 4 when the sign-in is not taken."""
    target = session.target()
    with session.client_of(target, None) as client:
        began = time.monotonic()
        value: dict[str, Any] = {"url": client.url, **client.health.summary()}
        value["responseTimeMs"] = round((time.monotonic() - began) * 1000, 1)
    if details or check_auth:
        with session.client() as client:
            known = client.health.details()  # refused unless the sign-in is taken
        value |= {"authenticated": True}
        value |= {"details": known} if details else {}
    session.show(value, lambda: _tell(value))
    if value.get("status") == "unhealthy":
        raise typer.Exit(output.FAILED)


def _tell(value: dict[str, Any]) -> str:
    pairs = [(name, value.get(name)) for name in ("url", "status", "version", "responseTimeMs", "authenticated")]
    known = cast("dict[str, Any]", value.get("details", {}))
    for group in ("components", "resources", "version"):
        for name, state in cast("dict[str, Any]", known.get(group) or {}).items():
            pairs.append((name if group == "components" else f"{group}.{name}", state))
    return output.facts(pairs)
