"""`/integrations`, `/projects` and `/repository/auth-token`.

Credentials of an integration are shown to whoever has the scope for that (owners, and applications that were given it),
by two routes; each time the broker opens them, and the entry in the audit trail is there first.
"""

from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from uuid import UUID

import msgspec
from litestar import Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter
from msgspec import Meta

from sfp_server.actor import Actor
from sfp_server.credentials import integrations, projects
from sfp_server.credentials.asking import Asking
from sfp_server.credentials.model import SHORTEST_VALUE
from sfp_server.credentials.providers import OPEN_ENTRIES, Credentials, git_login, provider_of
from sfp_server.credentials.public import PublicKeys
from sfp_server.db.database import Database
from sfp_server.errors import NotFound, Unprocessable
from sfp_server.web.idempotency import once
from sfp_server.web.paging import DEFAULT_LIMIT, Cursor, Limit, Page, after, page
from sfp_server.web.preconditions import expectation, versioned
from sfp_server.web.wire import ApiRequest, Wire, WrongField

_Provider = Annotated[str, Meta(pattern="^[a-z][a-z0-9-]{0,62}$", description="github, gitlab, azure-devops, jira, …")]
_Identifier = Annotated[str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$", description="as in core or acme/core")]
_Url = Annotated[str, Meta(min_length=1, max_length=2048)]
_Entry = Annotated[str, Meta(pattern="^[A-Za-z][A-Za-z0-9_]{0,62}$")]

_NO_STORE = {"Cache-Control": "no-store"}


def _check_url(field: str, url: str) -> None:
    """Raises WrongField unless it is an address over HTTP without a user in it."""
    try:
        parts = urlsplit(url)
        port_is_good = parts.port is None or parts.port > 0
    except ValueError:
        raise WrongField(field, "is not an address") from None
    if parts.scheme not in {"https", "http"} or not parts.hostname or parts.username or parts.password:
        raise WrongField(field, "must be an http or https address without user or password")
    if not port_is_good or not url.isprintable() or " " in url:
        raise WrongField(field, "is not an address")


class IntegrationConfig(Wire, omit_defaults=True):
    """What is not secret."""

    url: _Url | None = None

    def __post_init__(self) -> None:
        if self.url is not None:
            _check_url("url", self.url)


class CreateIntegration(Wire):
    """Body of `POST /integrations`. Without projects it is for the whole team."""

    provider: _Provider
    auth_type: Literal["token", "basic", "custom"]
    credentials: Annotated[
        dict[_Entry, Annotated[str, Meta(min_length=1, max_length=32_768)]], Meta(min_length=1, max_length=20)
    ]
    is_global: bool | None = None
    projects: Annotated[list[_Identifier], Meta(max_length=100)] = msgspec.field(default_factory=list[str])
    config: IntegrationConfig = msgspec.field(default_factory=IntegrationConfig)

    def __post_init__(self) -> None:
        if wrong := integrations.expected_entries(self.auth_type, self.credentials):
            raise WrongField("credentials", wrong)
        for entry, value in self.credentials.items():
            if entry not in OPEN_ENTRIES and len(value.strip()) < SHORTEST_VALUE:
                raise WrongField("credentials", f"{entry} has fewer than {SHORTEST_VALUE} characters")
            if any(char in value for char in "\0\r\n") and self.auth_type != "custom":
                raise WrongField("credentials", f"{entry} must be one line")
        if self.is_global is False and not self.projects:
            raise WrongField("projects", "are needed when it is not global")
        if len(set(self.projects)) != len(self.projects):
            raise WrongField("projects", "names one twice")

    @property
    def for_all(self) -> bool:
        return not self.projects if self.is_global is None else self.is_global


class IntegrationAnswer(Wire):
    id: UUID
    provider: str
    auth_type: str
    is_global: bool
    projects: list[str]
    config: dict[str, Any]
    created_by: str
    created_at: datetime


class IntegrationCredentials(Wire):
    """What was asked for; each look is in the audit trail."""

    integration_id: str
    provider: str
    auth_type: str
    credentials: dict[str, str]
    config: dict[str, Any]


class CreateProject(Wire):
    identifier: _Identifier
    remote_url: _Url

    def __post_init__(self) -> None:
        _check_url("remoteUrl", self.remote_url)


class PatchProject(Wire):
    remote_url: _Url
    version: Annotated[int, Meta(ge=1)] | None = None

    def __post_init__(self) -> None:
        _check_url("remoteUrl", self.remote_url)


class ProjectAnswer(Wire):
    id: UUID
    identifier: str
    remote_url: str
    version: int
    created_by: str
    created_at: datetime
    updated_at: datetime


class RepositoryToken(Wire):
    """What git signs in with at the repository's provider."""

    provider: str
    remote_url: str
    username: str
    token: str


def _answer(item: integrations.Integration) -> IntegrationAnswer:
    return IntegrationAnswer(**{name: getattr(item, name) for name in IntegrationAnswer.__struct_fields__})


def _project(item: projects.Project) -> ProjectAnswer:
    return ProjectAnswer(**{name: getattr(item, name) for name in ProjectAnswer.__struct_fields__})


@post("/integrations", opt={"scope": "integrations:manage"})
async def create_integration(
    data: JSONBody[CreateIntegration],
    request: ApiRequest,
    actor: NamedDependency[Actor],
    db: NamedDependency[Database],
    public_keys: NamedDependency[PublicKeys],
) -> Response[IntegrationAnswer]:
    """Connect a provider; its credentials are sealed."""
    opened = Credentials(
        auth_type=data.auth_type, credentials=data.credentials, config=msgspec.to_builtins(data.config)
    )
    async with db.transaction(actor) as tx:

        async def create() -> IntegrationAnswer:
            made = await integrations.create(
                tx,
                actor,
                public_keys,
                provider=data.provider,
                opened=opened,
                is_global=data.for_all,
                projects=data.projects,
            )
            return _answer(made)

        made = await once(tx, actor, request, create)
    return made.response()


@get("/integrations", opt={"scope": "integrations:manage"})
async def list_integrations(
    actor: NamedDependency[Actor], db: NamedDependency[Database], limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Page[IntegrationAnswer]:
    """The team's integrations, without their credentials."""
    async with db.transaction(actor) as tx:
        found = await integrations.listed(tx, after=after(cursor), limit=limit + 1)
    return page([_answer(item) for item in found], limit, key=lambda answer: answer.id)


@get("/integrations/{integration_id:uuid}", opt={"scope": "integrations:manage"})
async def get_integration(
    integration_id: FromPath[UUID], actor: NamedDependency[Actor], db: NamedDependency[Database]
) -> IntegrationAnswer:
    """One integration, without its credentials."""
    async with db.transaction(actor) as tx:
        return _answer(await integrations.get(tx, integration_id))


@delete("/integrations/{integration_id:uuid}", opt={"scope": "integrations:manage"})
async def delete_integration(
    integration_id: FromPath[UUID], actor: NamedDependency[Actor], db: NamedDependency[Database]
) -> None:
    """Forget an integration and its credentials."""
    async with db.transaction(actor) as tx:
        await integrations.delete(tx, actor, integration_id)


@get("/integrations/credentials", opt={"scope": "integrations:credentials"})
async def integration_credentials(
    actor: NamedDependency[Actor],
    asking: NamedDependency[Asking],
    provider: Annotated[str, QueryParameter(max_length=63)],
    project: Annotated[str | None, QueryParameter(max_length=200)] = None,
) -> Response[IntegrationCredentials]:
    """The credentials of a provider: those of the project before those for the whole team. Audited."""
    assert actor.team_id is not None  # nobody without a team has the scope
    opened = await asking.integration(actor.label, actor.team_id, provider, project)
    answer = IntegrationCredentials(
        integration_id=opened["id"],
        provider=provider,
        auth_type=opened["authType"],
        credentials=opened["credentials"],
        config=opened["config"],
    )
    return Response(answer, headers=_NO_STORE)


@post("/projects", opt={"scope": "projects:write"})
async def create_project(
    data: JSONBody[CreateProject], request: ApiRequest, actor: NamedDependency[Actor], db: NamedDependency[Database]
) -> Response[ProjectAnswer]:
    """Register a repository under a name."""
    async with db.transaction(actor) as tx:

        async def create() -> ProjectAnswer:
            made = await projects.create(tx, actor, identifier=data.identifier, remote_url=data.remote_url)
            return _project(made)

        made = await once(tx, actor, request, create)
    return made.response()


@get("/projects", opt={"scope": "projects:read"})
async def list_projects(
    actor: NamedDependency[Actor],
    db: NamedDependency[Database],
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
    identifier: Annotated[str | None, QueryParameter(max_length=200)] = None,
) -> Page[ProjectAnswer]:
    """The team's projects; with `identifier` the one of that name."""
    async with db.transaction(actor) as tx:
        found = await projects.listed(tx, identifier=identifier, after=after(cursor), limit=limit + 1)
    return page([_project(item) for item in found], limit, key=lambda answer: answer.id)


@get("/projects/{project_id:uuid}", opt={"scope": "projects:read"})
async def get_project(
    project_id: FromPath[UUID], actor: NamedDependency[Actor], db: NamedDependency[Database]
) -> Response[ProjectAnswer]:
    """One project."""
    async with db.transaction(actor) as tx:
        found = await projects.get(tx, project_id)
    return versioned(_project(found), found.version)


@patch("/projects/{project_id:uuid}", opt={"scope": "projects:write"})
async def patch_project(
    project_id: FromPath[UUID],
    data: JSONBody[PatchProject],
    request: ApiRequest,
    actor: NamedDependency[Actor],
    db: NamedDependency[Database],
) -> Response[ProjectAnswer]:
    """Give a project another address. Honours If-Match."""
    expected = expectation(request, data.version)
    async with db.transaction(actor) as tx:
        changed = await projects.move(tx, actor, project_id, remote_url=data.remote_url, expected=expected)
    return versioned(_project(changed), changed.version)


@delete("/projects/{project_id:uuid}", opt={"scope": "projects:write"})
async def delete_project(
    project_id: FromPath[UUID], actor: NamedDependency[Actor], db: NamedDependency[Database]
) -> None:
    """Forget a project."""
    async with db.transaction(actor) as tx:
        await projects.delete(tx, actor, project_id)


@get("/repository/auth-token", opt={"scope": "integrations:credentials"})
async def repository_token(
    actor: NamedDependency[Actor],
    db: NamedDependency[Database],
    asking: NamedDependency[Asking],
    repository_identifier: Annotated[str, QueryParameter(name="repositoryIdentifier", min_length=1, max_length=200)],
) -> Response[RepositoryToken]:
    """What git signs in with at a project's repository. By the project's name, or the end of its address. Audited."""
    assert actor.team_id is not None  # nobody without a team has the scope
    async with db.transaction(actor) as tx:
        project = await projects.of_repository(tx, repository_identifier)
    if project is None:
        raise NotFound("there is no such project")
    provider = provider_of(project.remote_url) or "git"
    told = await asking.integration(actor.label, actor.team_id, provider, project.identifier)
    opened = Credentials(auth_type=told["authType"], credentials=told["credentials"], config=told["config"])
    login = git_login(provider, opened)
    if login is None or not login.covers(project.remote_url):
        raise Unprocessable(f"the integration {provider} is not for {urlsplit(project.remote_url).hostname}")
    answer = RepositoryToken(
        provider=provider, remote_url=project.remote_url, username=login.username, token=login.password
    )
    return Response(answer, headers=_NO_STORE)


ROUTES = [
    create_integration,
    list_integrations,
    get_integration,
    delete_integration,
    integration_credentials,
    create_project,
    list_projects,
    get_project,
    patch_project,
    delete_project,
    repository_token,
]
