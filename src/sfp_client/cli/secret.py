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
    value = value_from(value_file)
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


@command(app, "refer", examples=["sfp-server secret refer NPM_TOKEN --source vault --path sfp/acme/npm --key token"])
def refer(
    session: Session,
    *,
    name: Name,
    source: Annotated[str, typer.Option("--source", help="vault, aws or infisical.")],
    path: Annotated[str, typer.Option("--path", help="Where the value is kept there.")],
    key: Annotated[str, typer.Option("--key", help="Which entry of it.")] = "value",
) -> None:
    """Let a secret be a reference: the value stays elsewhere and is fetched when a task needs it."""
    with session.client() as client:
        stored = client.secrets.refer(name, source=source, path=path, key=key)
    session.show(stored, f"secret {name} refers to {source} (version {stored.get('version', 1)})")


@command(app, "versions", examples=["sfp-server secret versions NPM_TOKEN"])
def versions(session: Session, *, name: Name) -> None:
    """List the versions of a secret: when each came and from whom, never their values."""
    with session.client() as client:
        items = client.secrets.versions(name)
    columns = ("version", "isCurrent", "restoredFrom", "createdAt", "createdBy")
    rows = [[item.get(column) for column in columns] for item in items]
    session.show({"items": items}, lambda: output.table(columns, rows, empty="there are no versions"))


@command(app, "restore", examples=["sfp-server secret restore NPM_TOKEN --version 3"])
def restore(
    session: Session,
    *,
    name: Name,
    version: Annotated[int, typer.Option("--version", min=1, help="As versions shows it.")],
) -> None:
    """Bring the value of an earlier version back, as a new version."""
    with session.client() as client:
        stored = client.secrets.restore(name, version)
    session.show(stored, f"secret {name} has the value of version {version} again (version {stored['version']})")


@command(app, "rotate-keys", examples=["sfp-server secret rotate-keys", "sfp-server secret rotate-keys --show"])
def rotate_keys(
    session: Session, *, show: Annotated[bool, typer.Option("--show", help="Only say how far it is.")] = False
) -> None:
    """Give the vault of the instance a new key pair; values stay as they are, and can be read all the time."""
    with session.client() as client:
        if not show:
            client.secrets.rotate_keys()
        keys = client.secrets.keys()
    columns = ("version", "sealed", "isCurrent", "createdAt")
    rows = [[item.get(column) for column in columns] for item in keys["items"]]
    session.show(keys, lambda: output.table(columns, rows, empty="nothing was ever sealed"))


@command(app, "leases", examples=["sfp-server secret leases", "sfp-server secret leases --task 0198f2d0-…"])
def leases(
    session: Session, *, task: Annotated[str | None, typer.Option("--task", help="What this task drew.")] = None
) -> None:
    """List which credentials running tasks hold now."""
    with session.client() as client:
        items = client.secrets.leases(task)
    columns = ("operationId", "attempt", "kind", "name", "version", "leasedAt", "endedAt")
    rows = [[item.get(column) for column in columns] for item in items]
    session.show({"items": items}, lambda: output.table(columns, rows, empty="no credential is leased"))


@command(app, "delete", examples=["sfp-server secret delete NPM_TOKEN"])
def delete(session: Session, *, name: Name) -> None:
    """Delete a secret: tasks that declare it can no longer start."""
    with session.client() as client:
        client.secrets.delete(name)
    session.show({"name": name, "deleted": True}, f"secret {name} is deleted")


def value_from(file: Path | None) -> str:
    """A secret text from a file, stdin or a prompt."""
    try:
        if file is not None:
            return file.read_bytes().decode()
        if not sys.stdin.isatty():
            return sys.stdin.buffer.read().decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        output.fail("a secret is text: encode binary values, as with base64", code=output.USAGE)
    answer: str = typer.prompt("Value", hide_input=True, confirmation_prompt=True, err=True)
    return answer
