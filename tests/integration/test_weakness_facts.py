"""What `doctor --security` learns from the database."""

from sfp_server.actor import Role
from sfp_server.db.database import fetch
from sfp_server.db.queries import load
from sfp_server.identity.model import BY_NAME_ONLY, SCOPES


async def facts(clone, passwords: str = "auto") -> dict[str, int]:
    statement = load("sfp_server.instance", "security.sql")["facts"]
    (row,) = await fetch(clone.admin_url, statement, 90, 90, len(SCOPES[Role.APPLICATION] - BY_NAME_ONLY), passwords)
    return dict(row)


async def test_an_instance_as_it_should_be_has_nothing_to_count(api, clone):
    await api.owner()
    assert set((await facts(clone)).values()) == {0}


async def test_tokens_owners_and_passwords_are_counted(api, clone, admin):
    owner = await api.owner()
    await api.application_token(owner, expiresIn=300)
    await api.application_token(owner, expiresIn=30, scopes=["tasks:read"])
    gone = await api.application_token(owner, expiresIn=300)
    await admin.execute("UPDATE application_tokens SET revoked_at = now() WHERE id = $1::uuid", gone["id"])
    found = await facts(clone)
    assert (found["long_tokens"], found["mighty_tokens"], found["roaming_tokens"]) == (1, 1, 2)
    await admin.execute("UPDATE users SET created_at = now() - interval '1 year'")
    await admin.execute("UPDATE sessions SET last_used_at = now() - interval '91 days'")
    assert (await facts(clone))["absent_owners"] == 1
    await api.member()
    await admin.execute(
        "INSERT INTO identity_providers (slug, name, kind, config, created_by) VALUES ('a', 'A', 'oidc', '{}', 'x')"
    )
    counted = {mode: (await facts(clone, mode))["passwords"] for mode in ("everyone", "auto", "owners", "off")}
    assert counted == {"everyone": 2, "auto": 1, "owners": 1, "off": 0}
