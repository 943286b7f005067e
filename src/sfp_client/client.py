"""The client: one server, one actor, one team."""

from pathlib import Path
from types import TracebackType
from typing import Self

from sfp_client.access import ApplicationTokens, Auth, Health, Integrations, Projects, Secrets
from sfp_client.artifacts import Artifacts
from sfp_client.audit import Audit
from sfp_client.live import Follower
from sfp_client.people import Teams, Users
from sfp_client.providers import Providers
from sfp_client.queues import Queues
from sfp_client.renewal import FixedToken, TokenSource
from sfp_client.tasks import Tasks
from sfp_client.transport import Transport


class Client:
    """Synchronous client of one sfp server; use it in a `with` block, from one thread at a time.

    Every call raises the errors of `sfp_client.errors`, and nothing else that is expected.
    """

    def __init__(
        self,
        url: str,
        token: str | TokenSource | None = None,
        *,
        team: str | None = None,
        ca_file: str | Path | None = None,
        timeout: float = 30.0,
    ) -> None:
        """Make a client; nothing is sent yet.

        Args:
            url: `https://sfp.example`; plain HTTP for loopback only.
            token: an application token or user token, or what renews one; without it, sign in with `auth.login`.
            team: slug; default is the first team of the user.
            ca_file: PEM file trusted in addition to the system's certificates.
            timeout: seconds to wait for an answer.
        """
        self.transport = Transport(url, team=team, ca_file=ca_file, timeout=timeout)
        self.transport.source = FixedToken(token) if isinstance(token, str) else token
        self.tasks = Tasks(self.transport)
        self.artifacts = Artifacts(self.transport)
        self.auth = Auth(self.transport)
        self.tokens = ApplicationTokens(self.transport)
        self.secrets = Secrets(self.transport)
        self.integrations = Integrations(self.transport)
        self.projects = Projects(self.transport)
        self.audit = Audit(self.transport)
        self.providers = Providers(self.transport)
        self.users = Users(self.transport)
        self.teams = Teams(self.transport)
        self.health = Health(self.transport)
        self.queues = Queues(self.transport)

    @property
    def url(self) -> str:
        return self.transport.url

    def events(self, channel: str, *, after: int | None = None, deadline: float | None = None) -> Follower:
        """Follow a channel: everything after number `after` (None: from now on), then live."""
        return Follower(self.transport, channel, after=after, deadline=deadline)

    def close(self) -> None:
        self.transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
