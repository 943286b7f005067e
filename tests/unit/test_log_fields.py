"""Nothing that somebody keeps secret is written to a service's log, whatever field or error it comes in."""

import ast
import io
import json
import logging
import sys
import types
from pathlib import Path

import pytest
import structlog

from sfp_server.errors import Conflict
from sfp_server.web import logs
from sfp_server.web.logfields import FIELDS

PLANTED = "planted-s3cret"
TWO_LINES = f"x\n{PLANTED}"
SOURCES = sorted(Path("src/sfp_server").rglob("*.py"))


@pytest.fixture
def written(monkeypatch):
    """What a service has logged so far."""
    buffer = io.BytesIO()
    handlers, level = logging.getLogger().handlers, logging.getLogger().level
    monkeypatch.setattr(sys, "stderr", types.SimpleNamespace(buffer=buffer))
    logs.configure("test", "info")
    yield lambda: [json.loads(line) for line in buffer.getvalue().splitlines()]
    structlog.reset_defaults()
    logging.captureWarnings(False)
    logging.getLogger().handlers = handlers
    logging.getLogger().setLevel(level)


def raised(error):
    try:
        raise error
    except type(error) as caught:
        return caught


def caused(error, cause):
    try:
        raise error from cause
    except type(error) as caught:
        return caught


def test_a_field_that_nobody_allowed_is_dropped_and_named(written):
    structlog.get_logger().info("done", password=PLANTED, task="t1", exc_info=None)
    (entry,) = written()
    assert entry == {
        "message": "done", "service": "test", "level": "info", "at": entry["at"], "task": "t1", "dropped": ["password"],
    }  # fmt: skip


@pytest.mark.parametrize(
    "log",
    [
        lambda log: log.info("x", token=PLANTED),
        lambda log: log.info("x", why={"a": object(), "b": types.SimpleNamespace(value=PLANTED)}),
        lambda log: log.info("x", why=PLANTED.encode()),
        lambda log: log.bind(body=PLANTED).warning("x"),
        lambda log: log.error("x", exc_info=raised(ValueError(PLANTED))),
        lambda log: log.error("x", exc_info=caused(Conflict("known"), KeyError(PLANTED))),
        lambda log: log.error("x", exc_info=ExceptionGroup(PLANTED, [raised(RuntimeError(PLANTED))])),
        lambda _: logging.getLogger("library").warning("request to %s failed", PLANTED),
        lambda _: logging.getLogger("library").error(TWO_LINES),
        lambda _: logging.getLogger("library").error(ValueError(PLANTED)),
        lambda _: logging.getLogger("library").error("x", exc_info=raised(ValueError(PLANTED))),
    ],
)
def test_a_planted_secret_is_not_written(written, log):
    log(structlog.get_logger())
    entries = written()
    assert len(entries) == 1
    assert PLANTED not in json.dumps(entries)


def test_where_it_broke_and_what_we_said_ourselves_is_written(written):
    structlog.get_logger().error("x", exc_info=caused(Conflict("it is taken"), KeyError("k")))
    text = written()[0]["exception"]
    assert "KeyError" in text
    assert text.endswith("Conflict: it is taken")
    assert "in caused" in text


def test_long_texts_are_cut(written):
    structlog.get_logger().info("x", why="a" * 10_000)
    assert len(written()[0]["why"]) == 501


def _calls():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                yield path, node, node.func.attr, ast.unparse(node.func.value)


def test_every_field_that_we_log_is_allowed():
    """A new one is added to FIELDS by somebody who has thought about what may be in it."""
    logged = {
        keyword.arg
        for _, node, verb, whose in _calls()
        if (
            verb in {"debug", "info", "warning", "error", "exception"}
            and whose.lower().rpartition(".")[2] in {"log", "_log"}
        )
        or verb in {"bind_contextvars", "bound_contextvars"}
        for keyword in node.keywords
    }
    assert logged - {"exc_info"} <= FIELDS


def test_what_we_log_is_a_constant_text():
    texts = [
        (path, node.lineno)
        for path, node, verb, whose in _calls()
        if verb in {"debug", "info", "warning", "error", "exception"}
        and whose.lower().rpartition(".")[2] in {"log", "_log"}
        and not (node.args and isinstance(node.args[0], ast.Constant | ast.IfExp | ast.Name))
    ]
    assert texts == []
