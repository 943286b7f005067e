"""Users, teams and their members; owners only, but for reading and leaving one's own teams."""

from typing import Any
from urllib.parse import quote

from sfp_client.access import new_key
from sfp_client.transport import Transport, given

Rows = list[dict[str, Any]]


class Users:
    """The users of the team."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def add(
        self,
        email: str,
        *,
        first_name: str | None = None,
        last_name: str | None = None,
        team: str | None = None,
        role: str | None = None,
        password: str | None = None,
    ) -> dict[str, Any]:
        """Make somebody a member of a team; repeating it is fine. Names and password count for a new user only."""
        body = given(
            {
                "email": email,
                "firstName": first_name,
                "lastName": last_name,
                "team": team,
                "role": role,
                "password": password,
            }
        )
        return self._transport.json("POST", "/users", body=body, key=new_key())

    def list(self, *, team: str | None = None, role: str | None = None) -> Rows:
        """All users of a team, by e-mail address."""
        found: Rows = []
        while True:
            params = {"team": team, "role": role, "limit": 200, "offset": len(found)}
            page = self._transport.json("GET", "/users", params=params)
            found += page["users"]
            if not page["users"] or len(found) >= page["total"]:
                return found

    def get(self, email: str) -> dict[str, Any]:
        return self._transport.json("GET", _user(email))

    def update(
        self, email: str, *, first_name: str | None = None, last_name: str | None = None, role: str | None = None
    ) -> dict[str, Any]:
        """Change what is given."""
        body = given({"firstName": first_name, "lastName": last_name, "role": role})
        return self._transport.json("PUT", _user(email), body=body)

    def delete(self, email: str) -> None:
        """Take somebody out of the team, and away altogether when that was the last one."""
        self._transport.json("DELETE", "/users", body={"email": email})


class Teams:
    """Teams, and who is in them."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Rows:
        """One's own teams: slug, name, role."""
        return self._transport.json("GET", "/teams")["items"]

    def create(self, slug: str, name: str, *, description: str = "") -> dict[str, Any]:
        """Make a team and own it."""
        body = {"slug": slug, "name": name, "description": description}
        return self._transport.json("POST", "/teams", body=body, key=new_key())

    def delete(self, slug: str) -> None:
        """End a team that has nothing and nobody else any more."""
        self._transport.json("DELETE", _team(slug))

    def members(self, slug: str, *, role: str | None = None) -> Rows:
        return self._transport.json("GET", f"{_team(slug)}/members", params={"role": role})["members"]

    def add_member(self, slug: str, email: str, *, role: str = "member") -> dict[str, Any]:
        """Make a user who exists a member."""
        body = {"email": email, "role": role}
        return self._transport.json("POST", f"{_team(slug)}/members", body=body, key=new_key())

    def set_role(self, slug: str, email: str, role: str) -> dict[str, Any]:
        """At once."""
        return self._transport.json("PUT", f"{_member(slug, email)}/role", body={"role": role})

    def remove_member(self, slug: str, email: str) -> None:
        """At once; anybody may leave, but the last owner."""
        self._transport.json("DELETE", _member(slug, email))


def _user(email: str) -> str:
    return f"/users/{quote(email, safe='')}"


def _team(slug: str) -> str:
    return f"/teams/{quote(slug, safe='')}"


def _member(slug: str, email: str) -> str:
    return f"{_team(slug)}/members/{quote(email, safe='')}"
