"""`sfp-server completion SHELL`."""

from typing import Annotated, Literal

import typer

from sfp_client.cli.command import Session, command

app = typer.Typer(rich_markup_mode=None, add_completion=False)
PROGRAM = "sfp-server"
#: the variable by which the shell asks this program for completions
VARIABLE = "_SFP_SERVER_COMPLETE"


@command(
    app,
    "completion",
    examples=[
        "sfp-server completion bash > ~/.local/share/bash-completion/completions/sfp-server",
        "sfp-server completion zsh > ~/.zfunc/_sfp-server",
    ],
)
def completion(
    session: Session, *, shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(help="Your shell.")]
) -> None:
    """Print the completion script for a shell."""
    from typer._completion_shared import get_completion_script

    script = get_completion_script(prog_name=PROGRAM, complete_var=VARIABLE, shell=shell)
    session.show({"shell": shell, "script": script}, script)
