"""Rules of tasks that need no I/O."""

import uuid
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfp_server.errors import RangeNotSatisfiable
from sfp_server.kinds import KINDS
from sfp_server.runtimes.base import Archive, Files, Git, Limits, Network, Workload
from sfp_server.tasks.command import COMMAND, CommandData, require_inside
from sfp_server.tasks.kind import Circumstances
from sfp_server.tasks.model import Retry
from sfp_server.tasks.transfer import _range, clean_name

ARTIFACT = uuid.UUID("0198c0de-0000-7000-8000-000000000000")
AT = Circumstances(
    operation_id="op", attempt=2, network=Network.EGRESS, limits=Limits(memory_mb=64), grace_seconds=3,
    inputs={ARTIFACT: (Path("/store/x"), "src.tar.gz")},
)  # fmt: skip


def describe(**data):
    return COMMAND.describe(msgspec.convert(data, CommandData), AT)


def test_a_command_is_described_whole():
    assert describe(
        argv=["make", "all"], workdir="sub", env={"A": "b"}, stdin="in", artifacts=["out/*"],
        workspace={"git": {"url": "https://git.example/x.git", "ref": "main", "depth": None}},
    ) == Workload(
        operation_id="op", attempt=2, argv=("make", "all"), env={"A": "b"}, stdin="in", workdir="sub",
        workspace=Git(url="https://git.example/x.git", ref="main", depth=None), artifacts=("out/*",),
        network=Network.EGRESS, limits=Limits(memory_mb=64), grace_seconds=3,
    )  # fmt: skip


def test_the_workspaces_are_described():
    assert describe(argv=["x"]).workspace is None
    assert describe(argv=["x"], workspace={"files": {"a/b": "c"}}).workspace == Files(files={"a/b": "c"})
    artifact = describe(argv=["x"], workspace={"artifact": str(ARTIFACT)}).workspace
    assert artifact == Archive(path=Path("/store/x"), name="src.tar.gz")


@pytest.mark.parametrize(
    "url",
    [
        "ssh://x/y",
        "file:///etc",
        "/etc",
        "git@host:x",
        "https://user:pw@host/x",
        "https://tok@host/x",
        "ext::sh -c id",
        "http://",
    ],
)
def test_a_git_url_that_is_not_plain_http_is_refused(url):
    with pytest.raises(msgspec.ValidationError):
        describe(argv=["x"], workspace={"git": {"url": url}})


@pytest.mark.parametrize("ref", ["--upload-pack=x", "a b", "x\n"])
def test_a_ref_cannot_be_an_option(ref):
    with pytest.raises(msgspec.ValidationError):
        describe(argv=["x"], workspace={"git": {"url": "https://h/x", "ref": ref}})


@given(st.text(max_size=40))
def test_what_passes_as_inside_never_leaves(path):
    try:
        require_inside(path, "x")
    except ValueError:
        return
    assert not path.startswith("/")
    assert ".." not in path.split("/")
    assert "\0" not in path


@given(attempt=st.integers(1, 50), most=st.integers(1, 50), jitter=st.booleans(), exponential=st.booleans())
def test_delays_stay_below_their_ceiling_and_end(attempt, most, jitter, exponential):
    retry = Retry(max_attempts=most, jitter=jitter, exponential=exponential, delay_seconds=2, max_delay_seconds=60)
    delay = retry.delay_after(attempt)
    if attempt >= most:
        assert delay is None
    else:
        assert 0 <= delay <= 60
        if not jitter:
            assert delay == (min(60, 2 * 2 ** (attempt - 1)) if exponential else 2)


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        (None, (0, 9)), ("bytes=0-3", (0, 3)), ("bytes=4-", (4, 9)), ("bytes=-3", (7, 9)), ("bytes=2-99", (2, 9)),
        ("bytes=-99", (0, 9)), ("lines=1-2", (0, 9)), ("bytes=0-1,3-4", (0, 9)), ("bytes=-", (0, 9)),
    ],
)  # fmt: skip
def test_ranges(header, wanted):
    assert _range(header, 10) == wanted


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=5-2", "bytes=-0"])
def test_ranges_outside_are_refused(header):
    with pytest.raises(RangeNotSatisfiable):
        _range(header, 10)


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("a.zip", "a.zip"),
        ("/etc/passwd", "passwd"),
        ("..", "artifact"),
        ("", "artifact"),
        ("a\nb", "ab"),
        ("x\\y.tar", "y.tar"),
    ],
)
def test_upload_names_are_cleaned(name, clean):
    assert clean_name(name) == clean


def test_every_kind_has_a_schema_and_a_summary():
    for name, kind in KINDS.items():
        assert kind.name == name
        assert kind.summary
        assert "properties" in str(kind.schema())
