"""What the instance commands share: their common options, and how failures are told."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from sfp_client.cli import output

Tenant = Annotated[str, typer.Option("--tenant", "-t", help="Name of the instance.")]
BaseDir = Annotated[Path, typer.Option("--base-dir", help="Where instances live.", envvar="SFP_BASE_DIR")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON value.")]
BASE = Path("sfp-server")


@contextmanager
def told() -> Generator[None]:
    """Private files whatever the umask, and expected failures as the CLI tells them."""
    from sfp_server.instance.problem import InstanceError

    os.umask(0o077)
    try:
        yield
    except InstanceError as error:
        output.fail(str(error), code=error.exit_code)
    except BrokenPipeError:
        raise  # whoever read our output has left; the program's root knows what to do
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        output.fail(f"{error.strerror or error}{where}: check the disk and its permissions")
