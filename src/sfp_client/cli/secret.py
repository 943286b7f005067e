"""`sfp-server secret …`: stored once, given to tasks that declare them, never shown again."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from sfp_client.cli import output
from sfp_client.cli.command import Session, command, group

app = group("Secrets that tasks may declare; owners only.")

Name = Annotated[str, typer.Argument(help="Letters, digits, _ . -", show_default=False)]


@command(
    app,
    "set",
    examples=[
        "sfp-server secret set NPM_TOKEN            (asks for the value)",
        "pass show npm | sfp-server secret set NPM_TOKEN",
        "sfp-server secret set DEPLOY_KEY --value-file ~/.ssh/deploy",
    ],
)
def set_secret(
    session: Session,
    *,
    name: Name,
    value_file: Annotated[Path | None, typer.Option("--value-file", help="File whose exact text is the value.")] = None,
) -> None:
    """Store or replace a secret. The value comes from a file, stdin or a prompt, never from an argument.

    One line end at the end of stdin is not part of the value.
    """
    value = _value(value_file)
    if not value:
        output.fail("the value is empty: nothing was stored", code=output.USAGE)
    with session.client() as client:
        stored = client.secrets.set(name, value)
    session.show(stored, f"secret {name} is stored (version {stored.get('version', 1)})")


@command(app, "list", examples=["sfp-server secret list"])
def list_secrets(session: Session) -> None:
    """List names, versions and times; values cannot be read back by anybody."""
    with session.client() as client:
        items = client.secrets.list()
    columns = ("name", "version", "updatedAt", "createdAt")
    rows = [[item.get(column) for column in columns] for item in items]
    session.show({"items": items}, lambda: output.table(columns, rows, empty="there are no secrets"))


@command(app, "delete", examples=["sfp-server secret delete NPM_TOKEN"])
def delete(session: Session, *, name: Name) -> None:
    """Delete a secret: tasks that declare it can no longer start."""
    with session.client() as client:
        client.secrets.delete(name)
    session.show({"name": name, "deleted": True}, f"secret {name} is deleted")


def _value(file: Path | None) -> str:
    try:
        if file is not None:
            return file.read_bytes().decode()
        if not sys.stdin.isatty():
            return sys.stdin.buffer.read().decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        output.fail("a secret is text: encode binary values, as with base64", code=output.USAGE)
    answer: str = typer.prompt("Value", hide_input=True, confirmation_prompt=True, err=True)
    return answer
