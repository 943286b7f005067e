"""Every operation that changes something, tried: it leaves an entry in the audit trail, or says here why not."""

from rights import OPERATIONS
from test_rights_operations import world  # noqa: F401 (the fixture)

#: what leaves no entry when it succeeds, and why
WITHOUT = {
    "POST ~/tasks": "the task itself says who asked and keeps its events; credentials are audited when they are drawn",
    "POST ~/tasks/bulk": "the same",
    "POST ~/tasks/{ended_id}/retry": "the same",
    "DELETE ~/tasks/{task_id}": "the task keeps who cancelled it",
    "POST ~/tasks/{series_id}/stop-recurring": "the same",
    "POST ~/tasks/preview-recurrence": "changes nothing",
    "POST ~/authz/check": "asks only",
    "POST ~/artifacts": "the artifact says who uploaded it",
    "POST ~/auth/device/code": "asks only; that somebody approves it is audited",
    "POST ~/auth/token": "a session goes on; its end, and the re-use of a token, are audited",
}

#: what does not succeed as it is declared in `rights.py`; that it is audited when it does, tests of its own say
ELSEWHERE = {
    "POST ~/auth/device/token": "needs an approved code: the sign-in is session.opened",
    "POST ~/auth/oidc/exchange": "needs a CI system's token: application_token.exchanged",
    "POST ~/auth/callback": "needs a code of a provider: session.opened, session.refused",
    "POST ~/auth/saml/{provider_id}/acs": "needs an assertion: session.opened, session.refused",
    "POST ~/auth/sign-in": "a form with its own secret: session.opened, session.refused",
    "POST ~/auth/sign-out": "the same: session.ended",
    "POST ~/auth/device": "needs a signed-in browser: device.approved or device.denied",
    "DELETE ~/sso/providers": "removes nothing here: identity_provider.removed",
    "DELETE ~/sso/providers/{provider_id}": "the same",
    "POST ~/secrets/rotate-keys": "needs the broker: vault.rotated",
    "DELETE ~/teams/{slug}": "the last team stays",
    "DELETE ~/auth/sessions/{session_id}": "names a session that is not the caller's: session.ended otherwise",
}


async def test_every_operation_that_changes_something_leaves_an_entry(world):  # noqa: F811 (pytest's way)
    refused, silent = {}, set()
    tried = [key for key in OPERATIONS if not key.startswith("GET ")]
    for key in tried:
        request = await world.request(key, "owner")
        before = await world.api.admin.fetchval("SELECT coalesce(max(id), 0) FROM audit_log")
        answer = await world.send(request)
        # some end the session of who calls them
        if (await world.call("GET ~/users/me", "owner")).status_code == 401:
            fresh = (await world.api.login("ann@acme.example")).json()["access_token"]
            world.tokens["owner"] = world.things.owner = fresh
        if answer.status_code >= 400:
            refused[key] = f"{answer.status_code} {answer.text[:200]}"
        elif not await world.api.admin.fetchval("SELECT count(*) FROM audit_log WHERE id > $1", before):
            silent.add(key)
    assert {key: told for key, told in refused.items() if key not in ELSEWHERE} == {}
    assert silent - set(WITHOUT) - set(ELSEWHERE) == set(), (
        "record an entry (audit.record), or say in WITHOUT why there is none"
    )
    assert set(WITHOUT) | set(ELSEWHERE) <= set(tried)
