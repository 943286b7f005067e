"""The command line against a whole instance, as a person and as a pipeline use it."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from acceptance.conftest import PROGRAM, Instance, eventually
from sfp_client.cli import main

pytestmark = pytest.mark.acceptance

#: prints one line, then goes on for longer than any test
ENDLESS = ["sh", "-c", "echo begun; exec sleep 300"]


@dataclass(frozen=True)
class Shell:
    """A user's shell: a home of its own, and this instance as the server."""

    home: Path
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def variables(self) -> dict[str, str]:
        own = {"PATH": os.environ["PATH"], "HOME": str(self.home), "XDG_CONFIG_HOME": str(self.home / "config")}
        return own | self.environ

    def start(self, *arguments: str, **options) -> subprocess.Popen[str]:
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("cwd", self.home)
        return subprocess.Popen(
            [str(PROGRAM), *arguments],
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def run(self, *arguments: str, given: str | None = None, **options) -> subprocess.CompletedProcess[str]:
        if given is not None:
            options["stdin"] = subprocess.PIPE
        process = self.start(*arguments, **options)
        out, err = process.communicate(given, timeout=90)
        assert "Traceback" not in err
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def ok(self, *arguments: str, **options) -> str:
        done = self.run(*arguments, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *arguments: str, **options):
        return json.loads(self.ok(*arguments[:2], "--json", *arguments[2:], **options))


def shell(instance: Instance, home: Path, **environ: str) -> Shell:
    home.mkdir(exist_ok=True)
    reached = {"SFP_SERVER_URL": instance.url, "SFP_EXTRA_CA_FILE": str(instance.place.edge_root_copy)}
    return Shell(home=home, environ=reached | environ)


def sign_in(user: Shell, instance: Instance) -> None:
    admin = instance.made["admin"]
    user.ok("auth", "login", "-e", admin["email"], "--password-stdin", given=admin["password"] + "\n")


@pytest.fixture(scope="module")
def owner(instance: Instance, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """The owner, signed in."""
    user = shell(instance, tmp_path_factory.mktemp("owner"))
    sign_in(user, instance)
    yield user
    user.run("auth", "clear")


@pytest.fixture
def stranger(instance: Instance, tmp_path: Path) -> Shell:
    """Somebody who has not signed in."""
    return shell(instance, tmp_path / "stranger")


def test_a_user_signs_in_is_known_and_signs_out(instance, stranger):
    admin = instance.made["admin"]
    wrong = stranger.run("auth", "login", "-e", admin["email"], "--password-stdin", given="wrong\n")
    assert (wrong.returncode, wrong.stdout) == (4, "")
    signed = stranger.json("auth", "login", "-e", admin["email"], "--password-stdin", given=admin["password"])
    assert signed == {"url": instance.url, "email": admin["email"], "keptIn": "file", "role": "owner"}
    assert stranger.json("auth", "display")["email"] == admin["email"]
    assert [item["email"] for item in stranger.json("auth", "list")] == [admin["email"]]
    token = stranger.json("auth", "display", "--show-token")["accessToken"]
    assert stranger.run("task", "list", "-t", token).returncode == 0
    assert stranger.run("auth", "clear").returncode == 0
    assert stranger.run("auth", "display").returncode == 4
    eventually(lambda: stranger.run("task", "list", "-t", token).returncode == 4, 5)


def test_the_password_may_come_from_the_environment_and_is_kept_nowhere(instance, stranger):
    admin = instance.made["admin"]
    user = Shell(home=stranger.home, environ=stranger.environ | {"SFP_SERVER_PASSWORD": admin["password"]})
    user.ok("auth", "login", "-e", admin["email"])
    files = [path for path in stranger.home.rglob("*") if path.is_file()]
    assert files
    assert all(admin["password"] not in path.read_text() for path in files)
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)


def test_the_local_instance_is_found_without_naming_it(instance, tmp_path):
    (tmp_path / "sfp-server").symlink_to(instance.base)
    user = Shell(home=tmp_path)
    assert user.json("health")["url"] == instance.url


def test_a_sign_in_is_used_from_any_directory_with_the_authority_it_was_made_with(instance, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "sfp-server").symlink_to(instance.base)
    user = Shell(home=tmp_path)
    admin = instance.made["admin"]
    user.ok("auth", "login", "-e", admin["email"], "--password-stdin", given=admin["password"], cwd=base)
    assert user.json("auth", "display", cwd="/")["email"] == admin["email"]


def test_an_unknown_authority_is_not_trusted(instance, tmp_path):
    done = Shell(home=tmp_path, environ={"SFP_SERVER_URL": instance.url}).run("health")
    assert done.returncode == 1
    assert "its certificate is not trusted here" in done.stderr


def test_a_run_passes_streams_and_exit_status_through(owner):
    done = owner.run("task", "run", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout) == (7, "out\n")
    assert done.stderr.splitlines()[0] == "err"


def test_a_run_works_on_a_directory_and_its_kept_files_come_back_equal(owner, tmp_path):
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "data.txt").write_text("numbers 1 2 3\n")
    (source / ".git").mkdir()
    ended = owner.json(
        "task", "run", "--dir", str(source), "--artifact", "**/*.txt",
        "--", "sh", "-c", "find . -name .git; wc -w < sub/data.txt > count.txt",
    )  # fmt: skip
    assert sorted(item["name"] for item in ended["result"]["artifacts"]) == ["count.txt", "sub/data.txt"]
    out = tmp_path / "out"
    files = owner.json("artifacts", "download", ended["operationId"], "--out", str(out))["files"]
    assert {item["name"] for item in files} == {"count.txt", "sub/data.txt"}
    assert (out / "sub" / "data.txt").read_text() == "numbers 1 2 3\n"
    assert (out / "count.txt").read_text().strip() == "4"
    missing = owner.run("task", "artifacts", "download", ended["operationId"], "none.txt", "--out", str(out))
    assert missing.returncode == 3


def test_files_variables_and_a_secret_reach_the_program(owner, tmp_path):
    value = "s3cret-value-of-the-test"
    owner.ok("secret", "set", "CLI_SECRET", given=value + "\n")
    assert "CLI_SECRET" in [item["name"] for item in owner.json("secret", "list")["items"]]
    (tmp_path / "hello.txt").write_text("hello ")
    done = owner.run(
        "task", "run", "--file", str(tmp_path / "hello.txt"), "--env", "WHO=world", "--secret", "CLI_SECRET=KEY",
        "--", "sh", "-c", 'cat hello.txt; echo $WHO; echo "$KEY ${#KEY}"',
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, f"hello world\n*** {len(value)}\n")
    owner.ok("secret", "delete", "CLI_SECRET")
    assert owner.run("secret", "delete", "CLI_SECRET").returncode == 3
    refused = owner.run("task", "run", "--secret", "CLI_SECRET", "--", "true")
    assert refused.returncode == 1
    assert "CLI_SECRET" in refused.stderr


def test_a_submitted_task_is_told_the_same_way_by_every_command(owner):
    data = json.dumps({"argv": ["sh", "-c", "echo one; echo two; echo '{\"n\":1}' > $SFP_RESULT"]})
    ended = owner.json("task", "submit", "command", "--data", "@-", "--label", "from=cli", "--wait", given=data)
    identity = ended["operationId"]
    assert (ended["status"], ended["result"]["output"]) == ("completed", {"n": 1})
    assert owner.json("task", "status", identity)["status"] == "completed"
    assert owner.json("task", "result", identity) == ended
    assert owner.json("task", "get", identity)["labels"] == {"from": "cli"}
    assert [entry["message"] for entry in owner.json("task", "logs", identity)] == ["one", "two"]
    assert owner.json("task", "logs", identity, "-f") == owner.json("task", "logs", identity)
    assert owner.ok("task", "logs", identity, "-f") == owner.ok("task", "logs", identity) == "one\ntwo\n"
    events = [item["event"] for item in owner.json("task", "events", identity)["items"]]
    assert (events[0], events[-1], events.count("task.log")) == ("task.created", "task.completed", 2)
    listed = owner.json("task", "list", "--label", "from=cli", "--status", "completed")["items"]
    assert identity in [item["operationId"] for item in listed]
    assert owner.run("task", "cancel", identity).returncode == 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["task", "status", "0198f2d0-0000-7000-8000-000000000000"], 3),
        (["task", "logs", "0198f2d0-0000-7000-8000-000000000000"], 3),
        (["task", "logs", "-f", "0198f2d0-0000-7000-8000-000000000000"], 3),
        (["task", "get", "no-id"], 3),
        (["task", "submit", "no-such-type"], 1),
        (["task", "submit", "command", "--data", "{}"], 1),
        (["task", "submit", "command", "--arg", "false", "--wait"], 1),
        (["application-token", "revoke", "-i", "0198f2d0-0000-7000-8000-000000000000"], 3),
        (["secret", "set", "bad name"], 1),
        (["task", "list", "--cursor", "nonsense"], 1),
        (["task", "list", "-t", "sfp_at_nonsense"], 4),
        (["task", "run", "--", "no-such-program"], 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_a_refusal_is_a_sentence_a_status_and_with_json_one_value(owner, arguments, code, monkeypatch, capsys):
    for name, value in owner.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"value")))
    # in this process: a dozen starts of Python would tell nothing more
    assert main.run([*arguments[:2], "--json", *arguments[2:]], "sfp-server") == code
    told = capsys.readouterr()
    assert isinstance(json.loads(told.out), dict)
    assert told.err.strip()


def test_wrong_data_is_told_with_its_path(owner):
    done = owner.run("task", "submit", "command", "--data", '{"argv": ["true"], "env": {"A": 1}}')
    assert done.returncode == 1
    assert re.search(r"^data\.env\S*: ", done.stderr, re.MULTILINE)


def test_waiting_too_long_is_5_and_the_task_goes_on(owner):
    identity = owner.json("task", "submit", "command", "--data", json.dumps({"argv": ENDLESS}))["operationId"]
    assert owner.run("task", "result", identity).returncode == 1
    assert owner.run("task", "result", identity, "--wait-timeout", "0.5").returncode == 5
    assert owner.json("task", "status", identity)["status"] in {"pending", "active"}
    owner.ok("task", "cancel", identity)
    assert owner.json("task", "result", identity, "--wait")["status"] == "cancelled"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_cancels_its_task(owner, number):
    process = owner.start("task", "run", "--label", f"test={number.name}", "--", *ENDLESS)
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "is cancelled" in err
    listed = owner.json("task", "list", "--label", f"test={number.name}")["items"]
    assert [item["status"] for item in listed] == ["cancelled"]


def test_leaving_a_followed_log_leaves_the_task_alone(owner):
    identity = owner.json("task", "submit", "command", "--data", json.dumps({"argv": ENDLESS}))["operationId"]
    process = owner.start("task", "logs", "-f", identity)
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert owner.json("task", "status", identity)["status"] == "active"
    owner.ok("task", "cancel", identity)


def test_an_application_token_does_what_its_scopes_say_until_it_is_revoked(instance, owner, stranger):
    made = owner.json("application-token", "create", "-n", "reader", "-x", "1", "--scope", "tasks:read")
    machine = Shell(home=stranger.home, environ=stranger.environ | {"SFP_SERVER_TOKEN": made["token"]})
    machine.ok("task", "list")
    assert machine.run("task", "submit", "command", "--arg", "true").returncode == 4
    assert machine.run("application-token", "list").returncode == 4
    assert machine.run("auth", "refresh").returncode == 1
    listed = {item["id"]: item for item in owner.json("application-token", "list")["items"]}
    assert listed[made["id"]]["name"] == "reader"
    assert made["token"] not in json.dumps(listed)
    owner.ok("application-token", "revoke", "-i", made["id"])
    eventually(lambda: machine.run("task", "list").returncode == 4, 5)


def test_a_new_application_token_is_all_that_a_pipe_gets(owner):
    assert re.fullmatch(r"sfp_at_[\w]+\n", owner.ok("application-token", "create", "-n", "pipe"))


def test_many_processes_renew_one_sign_in_and_all_go_on(owner):
    processes = [owner.start("auth", "refresh") for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    for process in processes:
        process.communicate()
    owner.ok("auth", "display")


def test_health_is_public_and_its_details_are_not(owner, stranger):
    assert stranger.json("health")["status"] == "healthy"
    assert stranger.run("health", "-d").returncode == 4
    assert owner.json("health", "-d", "--check-auth")["details"]["components"]["database"]["status"] == "healthy"


def test_task_types_are_told_with_their_schema(owner):
    types = {item["type"]: item for item in owner.json("task", "types")["items"]}
    assert "argv" in json.dumps(types["command"]["schema"])


def test_a_followed_run_misses_no_line_when_the_api_is_killed(healthy, owner):
    count = 60
    process = owner.start("task", "run", "--", "sh", "-c", f"for i in $(seq {count}); do echo $i; sleep 0.1; done")
    lines = [process.stdout.readline()]
    pids = healthy.pids("api")
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    reading = threading.Timer(60, process.kill)
    reading.start()
    lines += process.stdout.readlines()
    reading.cancel()
    _, err = process.communicate()
    assert (process.returncode, lines) == (0, [f"{number}\n" for number in range(1, count + 1)]), err
    eventually(healthy.is_healthy, 30)
