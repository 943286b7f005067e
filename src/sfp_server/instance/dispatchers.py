"""Adding, listing and removing machines, for the operator at the instance's own."""

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from sfp_server.errors import NotFound, SfpError
from sfp_server.instance import configuration, keys
from sfp_server.instance.place import Place
from sfp_server.instance.problem import InstanceError
from sfp_server.settings import Settings

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """What the operator takes to the other machine."""

    name: str
    slots: int
    token: str
    database_url: str
    broker: str
    #: what is still to be done here; empty: nothing
    remark: str


def add(at: Place, name: str, *, slots: int, environ: Mapping[str, str]) -> Added:
    """Enrol a machine. Raises InstanceError."""
    from sfp_server.remote import enrolments, tls
    from sfp_server.remote.token import Token

    settings = configuration.settings(at, environ)
    if enrolments.NAME.fullmatch(name) is None:
        raise InstanceError(f"'{name[:60]}' cannot be a name: use 1 to 40 of a-z, 0-9 and the hyphen", exit_code=2)
    token = Token.fresh(tls.fingerprint(tls.certificate_of(keys.authority(at))))
    role = _run(enrolments.enrol(settings.admin_url(), name, token, slots=slots, audit_key=settings.audit_key()))
    broker, remark = _broker(settings)
    return Added(
        name=name,
        slots=slots,
        token=token.text(),
        database_url=_database_url(settings, role, broker),
        broker=broker,
        remark=remark,
    )


def listed(at: Place, environ: Mapping[str, str]) -> list[dict[str, Any]]:
    """Every enrolment. Raises InstanceError."""
    from sfp_server.remote import enrolments

    settings = configuration.settings(at, environ)
    rows = _run(enrolments.enrolled(settings.admin_url()))
    return [
        {
            "name": row["name"],
            "slots": row["slots"],
            "active": row["active"],
            "alive": row["alive"],
            "host": (row["host"] or "").partition(":")[0] or None,
            "version": row["version"],
            "runtimes": row["runtimes"] or [],
            "createdAt": row["created_at"].isoformat(),
            "lastSeen": row["seen_at"].isoformat() if row["seen_at"] else None,
        }
        for row in rows
    ]


def remove(at: Place, name: str, environ: Mapping[str, str]) -> None:
    """End an enrolment. Raises InstanceError."""
    from sfp_server.remote import enrolments

    settings = configuration.settings(at, environ)
    _run(enrolments.unenrol(settings.admin_url(), name, audit_key=settings.audit_key()))


def _broker(settings: Settings) -> tuple[str, str]:
    address = settings.listen_address()
    if address is None:
        remark = (
            "This instance does not listen for other machines yet: set dispatchers.listen in its config.json, as in "
            "0.0.0.0:9443, and start it again."
        )
        return f"tls://{settings.domain}:PORT", remark
    host, port = address
    everywhere = host in {"", "0.0.0.0", "::"}  # noqa: S104 (what was configured is only compared)
    remark = (
        "Put the name by which the other machine knows this one in place of localhost."
        if (everywhere and settings.domain == "localhost")
        else ""
    )
    return f"tls://{settings.domain if everywhere else _bracketed(host)}:{port}", remark


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _database_url(settings: Settings, role: str, broker: str) -> str:
    """Without a password: it comes from the token."""
    if settings.database_url is None:
        return f"postgresql://{role}@{broker.removeprefix('tls://')}/sfp"
    parts = urlsplit(settings.database_url)
    return urlunsplit(parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}"))


def _run(work: Coroutine[Any, Any, Answer]) -> Answer:
    try:
        return asyncio.run(work)
    except NotFound as error:
        raise InstanceError(str(error), exit_code=3) from error
    except SfpError as error:
        raise InstanceError(f"{error} (the instance must be running)") from error
