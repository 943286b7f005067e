"""`sfp-server version`."""

import typer

from sfp_client.cli.command import Session, command

app = typer.Typer(rich_markup_mode=None, add_completion=False)


def installed() -> str:
    """The version of this program."""
    from importlib.metadata import version as version_of

    return version_of("sfp-server")


@command(app, "version", examples=["sfp-server version --json"])
def version(session: Session) -> None:
    """Show the version of this program."""
    session.show({"name": "sfp-server", "version": installed()}, installed())
