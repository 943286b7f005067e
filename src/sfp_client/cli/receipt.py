"""`sfp-server receipt verify FILE`: is this what the server has signed?"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfp_client.cli import output
from sfp_client.cli.audit import read_keys
from sfp_client.cli.command import Session, command, group
from sfp_proof.strict import loads

if TYPE_CHECKING:
    from sfp_proof.keys import KeyRing

app = group("Signed records of finished tasks.")


@command(
    app,
    "verify",
    examples=["sfp-server receipt verify receipt.json --key keys.json", "sfp-server receipt verify receipt.json"],
)
def verify(
    session: Session,
    *,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `task receipt` printed.", show_default=False)],
    key: Annotated[
        Path | None, typer.Option("--key", help="Public keys, as `audit keys` prints them, or PEM; else the server's.")
    ] = None,
) -> None:
    """Check a receipt. Exit status 1 when anything in it was changed. With --key no server is asked."""
    from sfp_proof.receipt import mismatch

    document = _read(file)
    why = mismatch(document, read_keys(key) if key else _published(session))
    if why is not None:
        raise output.Failure(f"{file} is not a genuine receipt: {why}", detail={"code": "receipt_mismatch"})
    receipt, signature = document["receipt"], document["signature"]
    ended = receipt["ended"]
    session.show(
        {"ok": True, "task": receipt["task"], "status": ended["status"], "keyId": signature["keyId"]},
        f"genuine: task {receipt['task']} of {receipt['instance']} {ended['status']} at {ended['at']} UTC, "
        f"asked by {receipt['asked']['name']}; signed with {signature['keyId']}",
    )


def _read(file: Path) -> Any:  # parsed JSON of somebody else
    try:
        return loads(file.read_bytes())
    except ValueError:
        raise output.Failure(
            f"{file} is not a receipt: it is not JSON, or names something twice", detail={"code": "receipt_mismatch"}
        ) from None


def _published(session: Session) -> "KeyRing":
    from sfp_proof.keys import KeyRing

    with session.client_of(session.target(), None) as client:
        return KeyRing.read(json.dumps(client.audit.keys()))
