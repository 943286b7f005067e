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
    "POST ~/artifacts": "the artifact says who uploaded it",
    "POST ~/auth/device/code": "asks only; that somebody approves it is audited",
    "POST ~/auth/token": "a session goes on; its end, and the re-use of a token, are audited",
}

#: what does not succeed as it is declared in `rights.py`; that it is audited when it does, tests of its own say
ELSEWHERE = {
    "POST ~/auth/device/token": "needs an approved code: the sign-in is session.opened",
    "POST ~/auth/saml/{provider_id}/acs": "needs a provider's answer: session.opened or session.refused",
    "POST ~/auth/device": "needs a signed-in browser: device.approved or device.denied",
    "DELETE ~/teams/{slug}": "the last team stays",
    "POST ~/secrets/rotate-keys": "the broker is away: it is vault.rotated",
}


async def test_every_operation_that_changes_something_leaves_an_entry(world):  # noqa: F811 (pytest's way)
    found = {}
    for key in OPERATIONS:
        if key.startswith("GET "):
            continue
        request = await world.request(key, "owner")
        before = await world.api.admin.fetchval("SELECT coalesce(max(id), 0) FROM audit_log")
        answer = await world.send(request)
        if not answer.is_success and key in ELSEWHERE:
            continue
        assert answer.is_success, (key, answer.text)
        found[key] = await world.api.admin.fetchval("SELECT count(*) FROM audit_log WHERE id > $1", before) > 0
    silent = {key for key, has_entry in found.items() if not has_entry}
    assert silent == set(WITHOUT) & set(found), "record an entry (audit.record), or say in WITHOUT why there is none"
    assert set(WITHOUT) <= set(OPERATIONS)
