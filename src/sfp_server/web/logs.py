"""Logs of every process: one JSON object a line on stderr; a constant message plus fields.

Bind what belongs to a whole piece of work once (`structlog.contextvars.bind_contextvars(task=…)`). Never log a
token, a secret or a body. Should somebody do so all the same, `logfields.py` drops it.
"""

import logging
import sys
from typing import Any

import msgspec
import structlog

from sfp_server.web.logfields import only_known_fields, told_exception

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(service: str, level: str) -> None:
    """Set up logging for this process; `level` is debug, info, warning or error."""
    threshold = _LEVELS[level]

    def named(_logger: Any, _method: str, event: Any) -> Any:
        event["service"] = service
        return event

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            named,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
            told_exception,
            only_known_fields,
            structlog.processors.EventRenamer("message"),
            _render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.BytesLoggerFactory(file=sys.stderr.buffer),
        cache_logger_on_first_use=True,
    )
    _adopt_standard_logging(service, threshold)


def current_request_id() -> str:
    """The id of the request that is being answered, empty outside of one."""
    return str(structlog.contextvars.get_contextvars().get("request_id", ""))


def _render(_logger: Any, _method: str, event: Any) -> bytes:
    return msgspec.json.encode(event, enc_hook=repr)


class _Forward(logging.Handler):
    """Libraries that use the standard library's logging, in the same form."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger(record.name)
        # What the library was about to say, without what it would have said it of.
        constant = str(record.msg).partition("\n")[0] if isinstance(record.msg, str) else type(record.msg).__name__
        log.log(record.levelno, constant, exc_info=record.exc_info or None)


def _adopt_standard_logging(service: str, threshold: int) -> None:
    del service  # the structlog chain adds it
    root = logging.getLogger()
    root.handlers = [_Forward()]
    root.setLevel(max(threshold, logging.WARNING))
    logging.captureWarnings(capture=True)
