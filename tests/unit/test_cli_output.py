"""What is printed where, and how a command ends."""

import io
import json
import os
import subprocess
import sys
from importlib import import_module
from importlib.metadata import EntryPoint

import pytest
from typer.main import get_command

from sfp_client.cli import main, output, parse, problems
from sfp_client.errors import ApiError, FieldProblem, NotAllowed, NotFound, NotSignedIn, Refused, TimedOut, Unreachable


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith("SFP_") or name == "NO_COLOR":
            monkeypatch.delenv(name)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m"),
        ("clear\x1b[2Jscreen", "clearscreen"),
        ("title\x1b]0;owned\x07bar", "titlebar"),
        ("title\x1b]0;owned\x1b\\bar", "titlebar"),
        ("back\x08\x08\rspace", "backspace"),
        ("c1\x9b2Jx", "c12Jx"),
        ("tab\tand\nline", "tab\tand\nline"),
        ("alone\x1b", "alone"),
    ],
)
def test_a_terminal_shows_colours_but_obeys_no_other_sequence(text, shown):
    assert output.printable(text, Terminal()) == shown


def test_no_color_removes_colours_and_a_pipe_gets_every_byte(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    assert output.printable("\x1b[31mred\x1b[0m", Terminal()) == "red"
    assert output.printable("\x1b[31mred\x1b[2J", io.StringIO()) == "\x1b[31mred\x1b[2J"


def test_a_table_in_a_pipe_is_one_line_per_row_parted_by_tabs(capsys):
    output.table(["a", "b"], [["one\ntwo", None], [1, {"x": [2]}]], empty="none")
    assert capsys.readouterr().out == 'one�two\t\n1\t{"x": [2]}\n'


def test_an_empty_table_says_so_on_a_terminal_only(monkeypatch, capsys):
    output.table(["a"], [], empty="there is nothing")
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(sys, "stdout", Terminal())
    output.table(["a"], [], empty="there is nothing")
    assert capsys.readouterr().err == "there is nothing\n"


def failing_after(*items):
    yield from items
    raise NotFound("said", status=404)


def test_an_array_is_one_json_value_whatever_happens_to_its_source(capsys):
    output.show_array([])
    assert json.loads(capsys.readouterr().out) == []
    output.show_array([{"n": 1}, {"n": 2}])
    assert json.loads(capsys.readouterr().out) == [{"n": 1}, {"n": 2}]
    with pytest.raises(NotFound):  # nothing was printed: the error may be the value
        output.show_array(failing_after())
    assert capsys.readouterr().out == ""
    with pytest.raises(output.Told) as told:
        output.show_array(failing_after(1))
    assert json.loads(capsys.readouterr().out) == [1]
    assert isinstance(told.value.__cause__, NotFound)


def api(kind=ApiError, status=409, **extra):
    return kind("said", status=status, **extra)


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (api(NotSignedIn, 401), 4, "not signed in (said): run sfp-server auth login, or set SFP_SERVER_TOKEN"),
        (
            api(NotSignedIn, 401, code="token_expired"),
            4,
            "not signed in (said): sign in with sfp-server auth login, or use another application token",
        ),
        (api(NotAllowed, 403), 4, "not allowed: said"),
        (api(NotFound, 404), 3, "said"),
        (api(status=409), 1, "said"),
        (api(status=400, errors=(FieldProblem(path="data.argv[0]", message="empty"),)), 1, "said\ndata.argv[0]: empty"),
        (api(status=429, retry_after=7.0), 1, "said; try again in 7 s"),
        (api(status=500, request_id="r-1"), 1, "said (request r-1)"),
        (Unreachable("gone"), 1, "gone"),
        (Refused("no"), 1, "no"),
        (TimedOut("late"), 5, "late"),
        (FileNotFoundError(2, "No such file or directory", "x.json"), 1, "x.json: No such file or directory"),
        (KeyError("x"), 1, "this is a bug in sfp-server (KeyError: 'x'); SFP_DEBUG=1 shows where"),
    ],
)
def test_every_error_is_one_sentence_and_an_exit_status(error, code, sentence):
    said, status, _ = problems.explained(error)
    assert (status, said) == (code, sentence)


def run(capsys, *arguments):
    """(exit status, stdout, stderr) of a command line."""
    code = main.run(list(arguments), "sfp-server")
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["nosuchcommand"],
        ["task", "nosuchcommand"],
        ["task", "list", "--nosuchoption"],
        ["task", "list", "--limit", "0"],
        ["task", "status"],
        ["task", "submit", "command", "--data", "{"],
        ["task", "run", "--secret", "a-b", "--sfp-server-url", "http://127.0.0.1:1", "-t", "x", "--", "true"],
        ["task", "run", "--env", "X", "--sfp-server-url", "http://127.0.0.1:1", "-t", "x", "--", "true"],
        ["task", "list"],
    ],
)
def test_a_wrong_command_line_ends_with_2_and_a_sentence(capsys, arguments):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.strip()
    assert "Traceback" not in err


def test_a_failure_with_json_is_one_json_value_on_stdout(capsys):
    code, out, err = run(capsys, "task", "list", "--json", "--sfp-server-url", "http://127.0.0.1:1", "-t", "x")
    assert code == 1
    assert json.loads(out)["error"]["code"] == "unreachable"
    assert "connection refused" in err


def test_json_after_the_dashes_belongs_to_the_program(capsys):
    code, out, _ = run(
        capsys, "task", "run", "--sfp-server-url", "http://127.0.0.1:1", "-t", "x", "--", "tool", "--json"
    )
    assert (code, out) == (1, "")


def test_nobody_signed_in_is_4_and_says_how_to(capsys):
    code, _, err = run(capsys, "task", "list", "--sfp-server-url", "https://sfp.example")
    assert (code, err) == (
        4,
        "not signed in at https://sfp.example: run sfp-server auth login, or set SFP_SERVER_TOKEN\n",
    )


def test_a_token_never_leaves_over_plain_http_to_another_machine(capsys):
    code, _, err = run(capsys, "task", "list", "--sfp-server-url", "http://sfp.example", "-t", "sfp_at_x")
    assert code == 1
    assert "not encrypted" in err


def test_the_version_is_told_by_command_and_option(capsys):
    code, out, _ = run(capsys, "version", "--json")
    assert (code, json.loads(out)["name"]) == (0, "sfp-server")
    assert run(capsys, "--version") == (0, json.loads(out)["version"] + "\n", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_program(capsys, shell):
    code, out, _ = run(capsys, "completion", shell)
    assert code == 0
    assert "_SFP_SERVER_COMPLETE" in out


def test_the_shell_completes_groups_and_their_commands():
    def complete(line):
        environ = {**os.environ, "_SFP_SERVER_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": "2"}
        program = [sys.executable, "-c", "from sfp_client.cli.main import main; main()"]
        return subprocess.run(program, env=environ, capture_output=True, text=True).stdout.split()

    assert complete("sfp-server task st") == ["status", "stop-recurring"]
    assert complete("sfp-server application-token re") == ["revoke"]


def test_help_loads_nothing_heavy():
    program = (
        "import sys\nfrom sfp_client.cli import main\nassert main.run(['--help'], 'sfp-server') == 0\n"
        "print([name for name in ('httpx', 'rich', 'keyring', 'websockets', 'litestar', 'asyncpg') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize("value", ["no_such_module_anywhere:register", "os:nosuchname", "os:getcwd"])
def test_a_missing_or_broken_plugin_does_not_break_the_client(capsys, monkeypatch, value):
    entry = EntryPoint("broken", value, main.PLUGINS)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [entry])
    code, out, err = run(capsys, "--help")
    assert code == 0
    assert "task" in out
    assert "cannot be used" in err


def test_every_command_has_examples_and_the_common_options(capsys):
    commands = []

    def walk(path, command):
        for name, child in getattr(command, "commands", {}).items():
            walk([*path, name], child)
        if not hasattr(command, "commands"):
            commands.append((path, command))

    for name in main.GROUPS:
        walk([name], get_command(import_module(main.GROUPS[name][0]).app))  # what the server adds works on the machine
    assert len(commands) > 20
    for path, command in commands:
        assert "Examples:" in command.help, path
        options = {option for parameter in command.params for option in parameter.opts}
        assert {"--json", "--sfp-server-url", "-t", "-e", "--team"} <= options, path


def test_a_reader_that_leaves_early_ends_the_command_quietly():
    program = "from sfp_client.cli import output; output.show({'x': 'y' * 10_000_000}, as_json=True)"
    code = f"import sys\nsys.argv[1:] = []\nimport sfp_client.cli.main as m\nm.root = lambda: lambda *a, **k: exec({program!r})\nm.main([])"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://git.example/acme/core.git", {"url": "https://git.example/acme/core.git"}),
        ("https://git.example/acme/core.git@main", {"url": "https://git.example/acme/core.git", "ref": "main"}),
        ("https://git.example/core.git@feature/x", {"url": "https://git.example/core.git", "ref": "feature/x"}),
        ("https://user@git.example/core.git", {"url": "https://user@git.example/core.git"}),
        ("git@git.example:acme/core.git", {"url": "git@git.example:acme/core.git"}),
    ],
)
def test_a_reference_is_told_from_a_user_in_a_git_url(text, expected):
    assert parse.git(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("secret:NPM_TOKEN", {"type": "secret", "name": "NPM_TOKEN", "env": "NPM_TOKEN"}),
        ("secret:npm-token=NPM", {"type": "secret", "name": "npm-token", "env": "NPM"}),
        ("salesforce:me@acme.example=UAT", {"type": "salesforce", "org": "me@acme.example", "alias": "UAT"}),
        ("integration:github", {"type": "integration", "provider": "github"}),
    ],
)
def test_a_credential_is_declared_by_name(text, expected):
    assert parse.credentials([text]) == [expected]


@pytest.mark.parametrize("text", ["NPM_TOKEN", "secret:", "secret:npm-token", "other:x"])
def test_a_credential_that_cannot_be_is_a_usage_error(text):
    with pytest.raises(output.Failure, match="--credential") as failure:
        parse.credentials([text])
    assert failure.value.code == output.USAGE


def test_a_series_is_declared_by_its_options():
    given = {"overlap": "queue", "missed": None, "maxRuns": 3}
    every = parse.recurrence(cron=None, every="5m", timezone=None, **given)
    assert every == {"intervalSeconds": 300.0, "overlap": "queue", "maxRuns": 3}
    cron = parse.recurrence(cron="0 2 * * *", every=None, timezone="Europe/Berlin")
    assert cron == {"cron": "0 2 * * *", "timezone": "Europe/Berlin"}
    with pytest.raises(output.Failure, match="--max-runs"):
        parse.recurrence(cron=None, every=None, timezone=None, **given)
