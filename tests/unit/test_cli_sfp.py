"""`sfp`: what begins with `server` is ours, the rest belongs to the next `sfp` on PATH."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SFP = Path(sys.executable).with_name("sfp")


def run(*arguments, path, program=SFP, **extra):
    environ = {"PATH": os.pathsep.join(str(item) for item in path), "HOME": "/nonexistent", **extra}
    return subprocess.run([str(program), *arguments], env=environ, capture_output=True, text=True, timeout=30)


@pytest.fixture
def other(tmp_path):
    """Another program of the same name, in a directory of its own."""
    directory = tmp_path / "other"
    directory.mkdir()
    program = directory / "sfp"
    program.write_text('#!/bin/sh\necho "other: $*"\nexit 9\n')
    program.chmod(0o755)
    return directory


def test_server_commands_are_ours(other):
    done = run("server", "version", path=[other])
    assert (done.returncode, done.stderr) == (0, "")
    assert "other" not in done.stdout


@pytest.mark.parametrize("arguments", [["project", "list", "--json"], ["--version"], []])
def test_other_topics_go_to_the_next_program_with_its_exit_status(other, arguments):
    done = run(*arguments, path=[SFP.parent, other])
    assert (done.returncode, done.stdout) == (9, f"other: {' '.join(arguments)}\n")


def test_without_another_program_it_says_so(tmp_path):
    (tmp_path / "sfp").symlink_to(SFP)
    done = run("project", "list", path=[tmp_path, SFP.parent])
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "only 'sfp server …' is here; 'project' is for the sfp CLI, which is not on PATH\n"


def test_two_installations_of_ours_do_not_call_each_other_for_ever(tmp_path):
    second = tmp_path / "sfp"
    second.write_text(SFP.read_text())
    second.chmod(0o755)
    done = run("project", path=[tmp_path, SFP.parent])
    assert done.returncode == 1
    assert "not on PATH" in done.stderr


def test_the_commands_of_the_server_are_there_under_both_names():
    program = SFP.with_name("sfp-server")
    ours = run("--help", path=[], program=program).stdout
    assert {"init", "start", "task", "auth"} <= {line.split()[0] for line in ours.splitlines() if line.startswith("  ")}
    assert run("server", "--help", path=[]).stdout.splitlines()[1:] == ours.splitlines()[1:]
