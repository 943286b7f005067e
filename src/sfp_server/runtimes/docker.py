"""The Docker Engine API, as much of it as a worker needs, over the engine's unix socket.

Docker and Podman both speak it. What an engine answers is parsed into our own few values here; what
it refuses becomes `EngineError` with the engine's own words.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import quote

import httpx

from sfp_server.runtimes.base import RuntimeUnavailable

#: the API version that this is written against; an engine that no longer speaks it says what it does
API_VERSION = (1, 41)
#: seconds for one answer, and for an image to be pulled
ANSWER_SECONDS, PULL_SECONDS = 30.0, 600.0
#: it is gone, or it has ended already
_NOT_THERE = (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)
#: characters of an engine's words that are passed on
_MAX_TEXT = 300


class EngineError(RuntimeUnavailable):
    """The engine refused, or does not answer (`status` 0)."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What an engine is, and which ceilings it can set."""

    name: str
    version: str
    has_memory_limit: bool
    has_process_limit: bool
    #: users inside are other users outside: the engine runs without root, or remaps
    is_remapped: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A container, as its engine knows it. `pid` is 0 when it does not run."""

    is_running: bool
    exit_code: int
    out_of_memory: bool
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image that is on this machine."""

    #: directories that the image wants to be volumes
    volumes: tuple[str, ...]


class Docker:
    """`socket` is the path of the engine's unix socket, or a `unix://` URL."""

    def __init__(self, socket: str) -> None:
        self.socket = socket.removeprefix("unix://")
        transport = httpx.AsyncHTTPTransport(uds=self.socket, limits=httpx.Limits(max_connections=None))
        self._http = httpx.AsyncClient(
            transport=transport, base_url="http://engine", timeout=ANSWER_SECONDS, trust_env=False
        )
        self._prefix = ""

    async def close(self) -> None:
        await self._http.aclose()

    async def about(self) -> About:
        """Ask the engine what it is, and agree on a version of the API. Comes before all else.

        Raises:
            EngineError: it does not answer, or not like an engine.
        """
        version = _object(await self._call("GET", "/version"))
        oldest = _numbers(version.get("MinAPIVersion"))
        self._prefix = "/v{}.{}".format(*max(API_VERSION, oldest))
        info = _object(await self._call("GET", "/info"))
        names = [str(part.get("Name")) for part in _objects(version.get("Components"))]
        options = [str(option) for option in cast("list[Any]", info.get("SecurityOptions") or [])]  # JSON
        return About(
            name="podman" if any("Podman" in name for name in names) else "docker",
            version=str(version.get("Version")),
            has_memory_limit=info.get("MemoryLimit") is True,
            has_process_limit=info.get("PidsLimit") is True,
            is_remapped=info.get("Rootless") is True or any(o in {"name=rootless", "name=userns"} for o in options),
        )

    async def image(self, name: str) -> Image | None:
        """The image of that name; None when it is not on this machine."""
        try:
            found = _object(await self._call("GET", f"/images/{quote(name, safe='/:@')}/json"))
        except EngineError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise
        volumes = _object(_object(found.get("Config")).get("Volumes"))
        return Image(volumes=tuple(sorted(volumes)))

    async def pull(self, name: str) -> None:
        """Fetch an image. Raises EngineError when it cannot be had."""
        if ":" not in name.rpartition("/")[2] and "@" not in name:
            name += ":latest"  # without a tag the engine would fetch them all
        last = await self._call("POST", "/images/create", params={"fromImage": name}, timeout=PULL_SECONDS, lines=True)
        failed = _object(last).get("error")
        if failed:
            raise EngineError(HTTPStatus.NOT_FOUND, str(failed)[:_MAX_TEXT])

    async def create(self, name: str, spec: Mapping[str, Any]) -> str:
        """Make a container from its description; its id."""
        return str(_object(await self._call("POST", "/containers/create", params={"name": name}, body=spec)).get("Id"))

    async def start(self, ident: str) -> None:
        await self._call("POST", f"/containers/{ident}/start")

    async def state(self, ident: str) -> State:
        state = _object(_object(await self._call("GET", f"/containers/{ident}/json")).get("State"))
        code, pid = state.get("ExitCode"), state.get("Pid")
        return State(
            is_running=state.get("Running") is True,
            exit_code=code if isinstance(code, int) else -1,
            out_of_memory=state.get("OOMKilled") is True,
            pid=pid if isinstance(pid, int) else 0,
        )

    async def wait(self, ident: str) -> None:
        """Return when the container has ended; Podman looks four times a second."""
        await self._call("POST", f"/containers/{ident}/wait", timeout=None)

    async def kill(self, ident: str) -> None:
        """SIGKILL to all of it. One that has ended, or is gone, is fine."""
        await self._call("POST", f"/containers/{ident}/kill", params={"signal": "KILL"}, fine=_NOT_THERE)

    async def remove(self, ident: str) -> None:
        """End it if need be, and remove it with its volumes. One that is gone is fine."""
        await self._call("DELETE", f"/containers/{ident}", params={"force": "true", "v": "true"}, fine=_NOT_THERE)

    async def labelled(self, label: str, value: str) -> dict[str, dict[str, str]]:
        """The labels of every container, running or not, with that label: id → labels."""
        filters = json.dumps({"label": [f"{label}={value}"]})
        found = _objects(await self._call("GET", "/containers/json", params={"all": "true", "filters": filters}))
        return {str(one.get("Id")): {k: str(v) for k, v in _object(one.get("Labels")).items()} for one in found}

    async def _call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        timeout: float | None = ANSWER_SECONDS,
        fine: Sequence[int] = (),
        lines: bool = False,
    ) -> Any:
        """The JSON of the answer (of its last line, with `lines`); None when it has none.

        Raises:
            EngineError: the engine refused with a status that is not `fine`, or does not answer.
        """
        try:
            async with asyncio.timeout(timeout):
                answer = await self._http.request(
                    method, self._prefix + path, params=params, json=body, timeout=timeout
                )
        except (httpx.HTTPError, TimeoutError) as error:
            raise EngineError(0, f"the container engine does not answer: {type(error).__name__}") from error
        if answer.is_error and answer.status_code not in fine:
            raise EngineError(answer.status_code, _said(answer))
        text = answer.text.strip()
        if lines:
            text = text.rpartition("\n")[2]
        try:
            return json.loads(text) if text else None
        except ValueError:
            return None  # an answer without an object, which whoever needs one finds missing


def _said(answer: httpx.Response) -> str:
    try:
        text = str(_object(answer.json()).get("message"))
    except ValueError:
        text = answer.text
    return " ".join(text.split())[:_MAX_TEXT]


def _object(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}  # JSON objects have text keys


def _objects(value: Any) -> list[dict[str, Any]]:
    return [_object(one) for one in cast("list[Any]", value)] if isinstance(value, list) else []  # JSON


def _numbers(version: Any) -> tuple[int, int]:
    """`1.44` → (1, 44)."""
    major, _, minor = str(version).partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else API_VERSION
