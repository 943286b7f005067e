"""Which server, and who asks."""

import json
import socket

import pytest

from sfp_client.cli.config import Flags, Target, remember, resolve, user_directory, user_settings
from sfp_client.cli.output import NOT_SIGNED_IN, USAGE, Failure

SOURCES = ["flag", "environment", "project", "user"]


@pytest.fixture
def environ(tmp_path):
    return {"XDG_CONFIG_HOME": str(tmp_path / "config")}


@pytest.fixture
def cwd(tmp_path):
    path = tmp_path / "checkout" / "deep" / "below"
    path.mkdir(parents=True)
    return path


def project(cwd, **values):
    directory = cwd.parents[1] / ".sfp-pro"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({key.replace("_", "-"): text for key, text in values.items()}))


def local_tenant(cwd, name, port, **extra):
    directory = cwd / "sfp-server" / "tenants" / name
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps({"tenant": name, "port": port, "apiPort": 1, **extra}))
    return directory


@pytest.fixture
def listening():
    """A port of this machine on which something answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("first", range(4))
def test_the_url_comes_from_the_first_source_that_names_one(environ, cwd, first):
    named = {source: f"https://{source}.example" for source in SOURCES[first:]}
    if "project" in named:
        project(cwd, server_url=named["project"])
    if "user" in named:
        remember(environ, server_url=named["user"])
    if "environment" in named:
        environ["SFP_SERVER_URL"] = named["environment"]
    assert resolve(Flags(url=named.get("flag")), environ, cwd).url == f"https://{SOURCES[first]}.example"


@pytest.mark.parametrize("first", range(4))
def test_the_user_comes_from_the_first_source_that_names_one(environ, cwd, first):
    named = {source: f"me@{source}" for source in SOURCES[first:]}
    if "project" in named:
        project(cwd, server_email=named["project"])
    if "user" in named:
        remember(environ, server_email=named["user"])
    if "environment" in named:
        environ["SFP_SERVER_USER"] = named["environment"]
    found = resolve(Flags(url="https://sfp.example", email=named.get("flag")), environ, cwd)
    assert (found.email, found.token) == (f"me@{SOURCES[first]}", None)


@pytest.mark.parametrize(
    ("flags", "variables", "expected"),
    [
        (Flags(token="flag"), {"SFP_SERVER_TOKEN": "env"}, ("flag", None)),
        (Flags(), {"SFP_SERVER_TOKEN": "env", "SFP_SERVER_USER": "me@env"}, ("env", None)),
        (Flags(email="me@flag"), {"SFP_SERVER_TOKEN": "env"}, (None, "me@flag")),
        (Flags(email="me@flag", token="flag"), {}, ("flag", None)),
        (Flags(), {"SFP_SERVER_TOKEN": "", "SFP_SERVER_USER": "me@env"}, (None, "me@env")),
    ],
    ids=["flag before variable", "token before user", "any flag before any variable", "both flags", "empty is unset"],
)
def test_a_token_and_a_user_keep_their_rank(environ, cwd, flags, variables, expected):
    found = resolve(Flags(url="https://sfp.example", token=flags.token, email=flags.email), environ | variables, cwd)
    assert (found.token, found.email) == expected


def test_the_only_running_local_instance_is_the_server_when_nothing_names_one(environ, cwd, listening):
    directory = local_tenant(cwd, "acme", listening)
    (directory / "ca.crt").write_text("certificate")
    local_tenant(cwd, "stopped", 1)
    url = f"https://localhost:{listening}"
    assert resolve(Flags(), environ, cwd) == Target(
        url=url, token=None, email=None, team=None, ca_file=directory / "ca.crt"
    )


def test_without_an_edge_the_local_instance_is_asked_on_its_loopback_port(environ, cwd, listening):
    local_tenant(cwd, "acme", 1, caddy=False, apiPort=listening)
    assert resolve(Flags(), environ, cwd).url == f"http://127.0.0.1:{listening}"


def test_two_running_local_instances_are_a_choice_for_the_user(environ, cwd, listening):
    local_tenant(cwd, "one", listening)
    local_tenant(cwd, "two", listening)
    with pytest.raises(Failure, match=r"one: https.*two: https.*--sfp-server-url") as failure:
        resolve(Flags(), environ, cwd)
    assert failure.value.code == USAGE


def test_a_stopped_local_instance_is_named_with_the_command_that_starts_it(environ, cwd):
    local_tenant(cwd, "acme", 1)
    with pytest.raises(Failure, match="sfp-server start -t acme"):
        resolve(Flags(), environ, cwd)


def test_no_server_at_all_is_a_usage_error_that_says_what_to_do(environ, cwd):
    with pytest.raises(Failure, match="SFP_SERVER_URL") as failure:
        resolve(Flags(), environ, cwd)
    assert failure.value.code == USAGE != NOT_SIGNED_IN


def test_the_authority_of_a_local_instance_is_trusted_for_its_own_address_only(environ, cwd, listening):
    directory = local_tenant(cwd, "acme", listening)
    (directory / "ca.crt").write_text("certificate")
    for url, expected in {
        f"https://127.0.0.1:{listening}": directory / "ca.crt",
        f"https://sfp.example:{listening}": None,
        "https://localhost:1": None,
        f"http://localhost:{listening}": None,
    }.items():
        assert resolve(Flags(url=url), environ, cwd).ca_file == expected, url


def test_a_named_bundle_beats_the_local_authority(environ, cwd, tmp_path):
    environ["SFP_EXTRA_CA_FILE"] = str(tmp_path / "environment.pem")
    assert resolve(Flags(url="https://x"), environ, cwd).ca_file == tmp_path / "environment.pem"
    flagged = Flags(url="https://x", ca_file=tmp_path / "flag.pem")
    assert resolve(flagged, environ, cwd).ca_file == tmp_path / "flag.pem"


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_broken_project_file_is_named(environ, cwd, text):
    project(cwd)
    file = cwd.parents[1] / ".sfp-pro" / "config.json"
    file.write_text(text)
    with pytest.raises(Failure, match=str(file)):
        resolve(Flags(), environ, cwd)


def test_remembering_keeps_other_keys_and_is_private(environ):
    remember(environ, server_url="https://one", server_email="me@one")
    remember(environ, server_url=None)
    file = user_directory(environ) / "config.json"
    assert user_settings(environ) == {"server-email": "me@one"}
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
