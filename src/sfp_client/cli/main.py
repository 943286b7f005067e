"""The programs `sfp-server` and `sfp`: the root of all commands, and the end of all errors."""

import json
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_command

from sfp_client.cli import output

#: command → (module that has it as `app`, what it is for)
GROUPS = {
    "auth": ("sfp_client.cli.auth", "Sign in and out."),
    "application-token": ("sfp_client.cli.application_token", "Tokens for machines."),
    "user": ("sfp_client.cli.user", "People of a team."),
    "team": ("sfp_client.cli.team", "Teams, and who is in them."),
    "secret": ("sfp_client.cli.secret", "Secrets that tasks may declare."),
    "integration": ("sfp_client.cli.integration", "Connected providers."),
    "project": ("sfp_client.cli.project", "Repositories that the team works on."),
    "repository": ("sfp_client.cli.repository", "Access to repositories."),
    "task": ("sfp_client.cli.task", "Submit, follow and inspect tasks."),
    "artifacts": ("sfp_client.cli.artifacts", "Files that tasks kept."),
    "audit": ("sfp_client.cli.audit", "Who did what, and whether the trail is whole."),
    "receipt": ("sfp_client.cli.receipt", "Signed records of finished tasks."),
    "health": ("sfp_client.cli.health", "How the server is."),
    "completion": ("sfp_client.cli.completion", "Completion script for your shell."),
    "version": ("sfp_client.cli.version", "Version of this program."),
}
#: groups to which plugins add commands of their own
SHARED = {"audit"}
#: entry points of this group add commands: `register(app: typer.Typer) -> None`
PLUGINS = "sfp_server.commands"
#: names the programs that `sfp` has been through, so that two installations do not call each other for ever
BEEN_THROUGH = "SFP_SERVER_BEEN_THROUGH"


class Root(TyperGroup):
    """The root group: loads a command's module when the command is used."""

    # Typer's own classes of context and command are private: here they are Any

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 (Typer's signature)
        return [*(name for name in self._plugins() if name not in GROUPS), *GROUPS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 (Typer's signature)
        if cmd_name in GROUPS:
            if cmd_name not in self.commands:
                self.commands[cmd_name] = get_command(import_module(GROUPS[cmd_name][0]).app)
                self._add_shared(cmd_name)
            return self.commands[cmd_name]
        return self._plugins().get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        known = [*GROUPS, *self._plugins()] if args and args[0] not in GROUPS else []
        if known and args[0] not in known and not args[0].startswith("-"):
            from difflib import get_close_matches

            close = get_close_matches(args[0], known)
            hint = f"did you mean {close[0]}?" if close else "sfp-server --help lists the commands"
            output.fail(f"there is no command '{args[0]}': {hint}", code=output.USAGE)
        return super().resolve_command(ctx, args)

    def _add_shared(self, name: str) -> None:
        """The commands that plugins have for one of our own groups."""
        own: Any = self.commands[name]
        more: Any = self._plugins().get(name) if name in SHARED else None
        for command, function in more.commands.items() if more is not None else ():
            own.commands.setdefault(command, function)

    def _plugins(self) -> dict[str, Any]:
        """Commands of other packages, loaded once; one that is broken costs a remark, nothing more."""
        if not hasattr(self, "_loaded"):
            self._loaded = _load_plugins()
        return self._loaded


def _load_plugins() -> dict[str, Any]:
    from importlib.metadata import entry_points

    app = typer.Typer(rich_markup_mode=None, add_completion=False)
    app.callback()(_nothing)
    for entry in entry_points(group=PLUGINS):
        try:
            entry.load()(app)
        except Exception as error:  # (somebody else's code must not break the client)
            output.note(f"the commands of {entry.value.partition(':')[0]} cannot be used: {error}")
    loaded: Any = get_command(app)
    return loaded.commands


def _nothing() -> None:
    pass


def root() -> Any:  # Typer's own class of command is private
    """The whole program as one command."""
    app = typer.Typer(
        cls=Root,
        help="sfp server: run work in isolated single-use workers, and see it live.",
        no_args_is_help=True,
        invoke_without_command=True,  # for --version
        rich_markup_mode=None,
    )
    app.callback()(_version_first)
    return get_command(app)


def _version_first(
    version: Annotated[bool, typer.Option("--version", is_eager=True, help="Show the version and leave.")] = False,
) -> None:
    if version:
        from sfp_client.cli.version import installed

        print(installed())
        raise typer.Exit


def main(arguments: Sequence[str] | None = None, *, program: str = "sfp-server") -> NoReturn:
    """Run `sfp-server`; ends the process with the status of the contract, never with a traceback."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    code = run(given, program)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = _reader_left()
    sys.exit(code)


def run(arguments: list[str], program: str) -> int:
    """Run a command line and return its exit status."""
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    try:
        code = root()(arguments, prog_name=program, standalone_mode=False, complete_var=_complete_var())
    except output.Failure as failure:
        return _told(str(failure), failure.code, failure.detail, as_json="--json" in own)
    except typer.Abort:
        return _told("interrupted", output.INTERRUPTED, {"code": "interrupted"}, as_json="--json" in own)
    except typer.TyperException as error:
        return _usage(error, as_json="--json" in own)
    except KeyboardInterrupt:
        return _told("interrupted", output.INTERRUPTED, {"code": "interrupted"}, as_json="--json" in own)
    except BrokenPipeError:
        return _reader_left()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except output.Told as told:
        return _explained(told.__cause__, as_json=False)
    except Exception as error:  # (the end of all errors)
        return _explained(error, as_json="--json" in own)
    return code if isinstance(code, int) else 0


def _complete_var() -> str:
    return "_SFP_SERVER_COMPLETE"


def _explained(error: BaseException | None, *, as_json: bool) -> int:
    from sfp_client.cli.problems import explained

    assert isinstance(error, Exception)
    return _told(*explained(error), as_json=as_json)


def _told(message: str, code: int, detail: dict[str, Any], *, as_json: bool) -> int:
    """One sentence on stderr, and with `--json` one value on stdout."""
    try:
        if as_json:
            print(json.dumps({"error": {"message": message, **detail}}, ensure_ascii=False, indent=2))
        output.note(message)
    except BrokenPipeError:
        return _reader_left()
    return code


def _usage(error: typer.TyperException, *, as_json: bool) -> int:
    """What is wrong with the command line, with its usage line; help for a group without a command."""
    context: Any = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        output.note(error.format_message())
        return output.USAGE
    if context is not None:
        output.note(f"{context.get_usage()}\nTry '{context.command_path} --help' for help.")
    return _told(error.format_message(), error.exit_code, {"code": "usage"}, as_json=as_json)


def _reader_left() -> int:
    """Whoever read our output has closed it: nobody is left to tell."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else the interpreter complains at exit
    return output.FAILED


def sfp() -> NoReturn:
    """Run `sfp`: `sfp server X` is `sfp-server X`; any other topic belongs to the next `sfp` on PATH."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["server"]:
        main(arguments[1:], program="sfp server")
    been = [path for path in os.environ.get(BEEN_THROUGH, "").split(os.pathsep) if path]
    been.append(os.path.realpath(sys.argv[0]))
    following = _next_sfp(been)
    if following is None:
        topic = f"'{arguments[0]}' is" if arguments else "other topics are"
        output.note(f"only 'sfp server …' is here; {topic} for the sfp CLI, which is not on PATH")
        sys.exit(output.FAILED)
    os.environ[BEEN_THROUGH] = os.pathsep.join(been)
    os.execv(following, [following, *arguments])  # noqa: S606 (what the user typed, for the program they meant)


def _next_sfp(been: list[str]) -> str | None:
    """The first `sfp` on PATH that we have not been through."""
    for directory in os.get_exec_path():
        candidate = Path(directory) / "sfp"
        if candidate.is_file() and os.access(candidate, os.X_OK) and os.path.realpath(candidate) not in been:
            return str(candidate)
    return None
