"""Git signs in with what was leased, below the address that it is for, and tells nobody else."""

import subprocess
from types import SimpleNamespace

import pytest

from sfp_worker import credentials, git

HEADER = "Authorization: Basic dTpzM2NyZXQ="
LOGINS = [("https://git.example/team", HEADER)]


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://git.example/team/repository.git", HEADER),
        ("https://git.example/other/repository.git", ""),
        ("http://git.example/team/repository.git", ""),
        ("https://git.example.evil/team/repository.git", ""),
    ],
)
def test_the_header_goes_to_its_address_only(url, sent, tmp_path):
    place = SimpleNamespace(home=str(tmp_path), tmp=str(tmp_path))
    env = {**git._environment(place), **git._signed_in(LOGINS)}
    for asked, answer in (("http.extraHeader", sent), ("http.followRedirects", "false")):
        told = subprocess.run(["git", "config", "--get-urlmatch", asked, url], env=env, capture_output=True, text=True)
        assert told.stdout.strip() == answer


def test_it_is_no_argument_of_git(tmp_path):
    ran = []

    def run(argv, env):
        ran.append((argv, env))
        return git.Ran(0, "")

    place = SimpleNamespace(home=str(tmp_path), tmp=str(tmp_path), src=str(tmp_path))
    git.clone(place, {"url": "https://git.example/team/x"}, run, LOGINS)
    assert not any("dTpzM2NyZXQ" in part for argv, _ in ran for part in argv)
    assert all(HEADER in env.values() for _, env in ran)


def test_without_a_login_git_is_told_nothing():
    assert git._signed_in([]) == {}


def test_what_is_no_secret_is_not_hidden():
    drawn = credentials._parse(
        {
            "credentials": [
                {"type": "integration", "name": "x", "env": "X_USERNAME", "value": "ann", "open": True},
                {"type": "integration", "name": "x", "env": "X_TOKEN", "value": "s3cret"},
            ],
            "git": [{"base": "https://git.example/team", "header": HEADER}],
        }
    )
    assert drawn.env == {"X_USERNAME": "ann", "X_TOKEN": "s3cret"}
    assert drawn.values == ["s3cret", "dTpzM2NyZXQ="]
    assert drawn.git == LOGINS
