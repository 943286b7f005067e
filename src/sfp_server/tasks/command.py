"""The task type `command`: run a program, by argv, in a private workspace. The base of all types."""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Annotated
from urllib.parse import urlsplit
from uuid import UUID

import msgspec
from msgspec import Meta

from sfp_server.runtimes import base
from sfp_server.tasks.kind import Circumstances, Kind

Argument = Annotated[str, Meta(max_length=131_072, description="passed as it is; never given to a shell")]
RelativePath = Annotated[str, Meta(min_length=1, max_length=4096, description="relative to the workspace, without ..")]
#: Linux refuses an argv and environment beyond this; we say so before the worker would
_ARGV_BYTES = 1_000_000


class GitWorkspace(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A repository, cloned before the program starts, in a step that reaches this host only."""

    url: Annotated[str, Meta(max_length=2048, description="http or https; no user or password in it")]
    ref: (
        Annotated[str, Meta(max_length=255, description="branch, tag or commit; default: the default branch")] | None
    ) = None
    depth: Annotated[int, Meta(ge=1, description="commits of history; null: all")] | None = 1

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("git.url must be an http or https URL")
        if parts.username or parts.password:
            raise ValueError("git.url must not carry a user or password: declare a credential instead")
        if self.ref is not None and (self.ref.startswith("-") or not self.ref.isprintable() or " " in self.ref):
            raise ValueError("git.ref is not a branch, tag or commit")


class Workspace(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What the working directory holds at the start; exactly one of the three."""

    files: dict[RelativePath, str] | None = None
    artifact: UUID | None = None
    git: GitWorkspace | None = None

    def __post_init__(self) -> None:
        if sum(part is not None for part in (self.files, self.artifact, self.git)) != 1:
            raise ValueError("workspace takes exactly one of files, artifact, git")
        for path in self.files or {}:
            require_inside(path, "workspace.files")
            if path.endswith("/") or not PurePosixPath(path).parts:
                raise ValueError(f"workspace.files: {path[:80]!r} names no file")


class CommandData(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, rename="camel", omit_defaults=True):
    """Input of `command`."""

    argv: Annotated[list[Argument], Meta(min_length=1, max_length=10_000)]
    workdir: RelativePath | None = None
    env: dict[Annotated[str, Meta(pattern="^[A-Za-z_][A-Za-z0-9_]*$", max_length=255)], str] = {}
    stdin: str | None = None
    workspace: Workspace | None = None
    artifacts: Annotated[list[RelativePath], Meta(max_length=100, description="globs of files to keep")] = []
    success_codes: Annotated[list[Annotated[int, Meta(ge=0, le=255)]], Meta(min_length=1, max_length=256)] = (
        msgspec.field(default_factory=lambda: [0])
    )

    def __post_init__(self) -> None:
        if not self.argv[0]:
            raise ValueError("argv[0] must name a program")
        if any("\0" in text for text in [*self.argv, *self.env.values()]):
            raise ValueError("argv and env must not contain NUL characters")
        if sum(len(text.encode()) for text in [*self.argv, *self.env, *self.env.values()]) > _ARGV_BYTES:
            raise ValueError("argv and env together must not exceed 1 MB")
        if reserved := [name for name in self.env if name.startswith("SFP_")]:
            raise ValueError(f"env must not set {reserved[0]}: names that begin with SFP_ are the worker's")
        if self.workdir is not None:
            require_inside(self.workdir, "workdir")
        for pattern in self.artifacts:
            require_inside(pattern, "artifacts")


def require_inside(path: str, where: str) -> None:
    """Raise ValueError unless `path` is relative and stays inside the workspace."""
    parts = PurePosixPath(path).parts
    if "\0" in path or path.startswith("/") or ".." in parts:
        raise ValueError(f"{where}: {path[:80]!r} leaves the workspace; paths are relative, without ..")


def describe(data: CommandData, at: Circumstances) -> base.Workload:
    """The workload of one attempt; equal inputs give equal workloads."""
    return base.Workload(
        operation_id=at.operation_id,
        attempt=at.attempt,
        argv=tuple(data.argv),
        env=data.env,
        stdin=data.stdin,
        workdir=data.workdir or ".",
        workspace=_workspace(data.workspace, at.inputs),
        artifacts=tuple(data.artifacts),
        network=at.network,
        limits=at.limits,
        grace_seconds=at.grace_seconds,
    )


def _workspace(
    workspace: Workspace | None, inputs: Mapping[UUID, tuple[base.Path, str]]
) -> base.Files | base.Archive | base.Git | None:
    if workspace is None:
        return None
    if workspace.files is not None:
        return base.Files(files=workspace.files)
    if workspace.artifact is not None:
        path, name = inputs[workspace.artifact]
        return base.Archive(path=path, name=name)
    assert workspace.git is not None  # exactly one is given: __post_init__
    return base.Git(url=workspace.git.url, ref=workspace.git.ref, depth=workspace.git.depth)


def _inputs(data: CommandData) -> Sequence[UUID]:
    return [data.workspace.artifact] if data.workspace and data.workspace.artifact else []


def _succeeded(data: CommandData, exit_: base.Exit) -> bool:
    return exit_.failure is None and exit_.code in data.success_codes


COMMAND: Kind[CommandData] = Kind(
    name="command",
    summary="Run a program, by argv, in a private single-use worker",
    data=CommandData,
    describe=describe,
    succeeded=_succeeded,
    inputs=_inputs,
)
