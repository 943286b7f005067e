"""The scanner for planted secrets finds what is there: else that it finds nothing would say nothing."""

import base64
import os
import subprocess
import sys
import urllib.parse
from pathlib import Path

import pytest

from planted import CHUNK, Planted

SECRET = "p+/ä plantedsecret0123456789 &%"
DRESSES = {
    "raw": lambda text: text,
    "hex": lambda text: text.encode().hex(),
    "HEX": lambda text: text.encode().hex().upper(),
    "url": lambda text: urllib.parse.quote(text, safe=""),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64, later": lambda text: base64.b64encode(b"x" + text.encode()).decode(),
    "base64, later still": lambda text: base64.b64encode(b"xy" + text.encode() + b"z").decode(),
    "urlsafe": lambda text: base64.urlsafe_b64encode(b"?" + text.encode()).decode(),
}


def planted() -> Planted:
    made = Planted()
    made.add("it", SECRET)
    made.add("another", "someothersecret9876543210")
    return made


@pytest.mark.parametrize("dress", DRESSES)
def test_a_secret_in_a_log_is_found_whatever_its_dress(tmp_path: Path, dress: str):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "api.log").write_text("fine\n" * 1000 + f"token={DRESSES[dress](SECRET)}\n")
    search = planted().search()
    search.files([tmp_path])
    assert search.found == {(str(tmp_path / "logs" / "api.log"), "it")}


def test_nothing_is_found_where_nothing_is(tmp_path: Path):
    (tmp_path / "api.log").write_text("token=***\n" * 1000)
    search = planted().search()
    search.files([tmp_path])
    assert (search.found, search.seen["files"]) == (set(), 10_000)


def test_nothing_hides_on_the_border_of_two_reads(tmp_path: Path):
    (tmp_path / "wal").write_bytes(b"\0" * (CHUNK - 15) + SECRET.encode())
    search = planted().search()
    search.files([tmp_path])
    assert {name for _, name in search.found} == {"it"}


def test_the_name_of_a_file_is_looked_at_too(tmp_path: Path):
    (tmp_path / SECRET.replace("/", "")).touch()
    search = planted().search()
    search.files([tmp_path])
    assert {name for _, name in search.found} == {"it"}


@pytest.mark.parametrize("where", ["cmdline", "environ", "memory"])
def test_a_secret_that_a_process_holds_is_found(where: str):
    script = "import os, sys; it = ''.join(reversed(sys.stdin.readline().strip())); print(flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", script, *([SECRET] if where == "cmdline" else [])],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={"PATH": os.environ["PATH"], **({"IT": SECRET} if where == "environ" else {})},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write((SECRET[::-1] if where == "memory" else "").encode() + b"\n")  # so that only memory has it
    process.stdin.flush()
    process.stdout.readline()
    search = planted().search()
    search.process(process.pid, "service", memory=where == "memory")
    process.stdin.close()
    process.stdout.close()
    process.wait()
    assert search.found == {(f"service: {where}", "it")}


def test_what_could_be_there_by_chance_is_no_plant():
    with pytest.raises(AssertionError, match="by chance"):
        Planted().add("short", "abc-def")
