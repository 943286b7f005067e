"""Signing in with SAML, at a real provider: npm's `samlp` of Auth0. What attackers make of documents: `test_saml_documents.py`."""

import base64
import sys
import time
from dataclasses import replace

import httpx
import pytest
from lxml import etree

sys.path.insert(0, "tests/security")  # the forgeries are made there
from saml_forgery import ASSERTION, Said, new_pair, signed, wrapped

import providers_npm
import web_api
from browser import Browser, Client, exchange, form_of, query
from sfp_server.errors import Unavailable
from sfp_server.identity.saml.room import XmlRefused, XmlRoom
from web_api import API

HERE = "https://localhost:8443"
ACS = f"{HERE}{API}/auth/saml/corp/acs"
EMAIL = "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/emailaddress"
PAIRS = [new_pair(), new_pair()]
ACCOUNTS = {
    "ann": {"name": "id-of-ann", "claims": {EMAIL: "Ann@acme.example"}},
    "max": {"name": "id-of-max", "claims": {"mail": "max@acme.example"}},
    "new": {"name": "id-of-new", "claims": {"email": "new@acme.example", "givenName": "New", "sn": "One"}},
    "far": {"name": "id-of-far", "claims": {EMAIL: "far@elsewhere.example"}},
    "mail": {
        "name": "ann@acme.example",
        "format": "urn:oasis:names:tc:SAML:1.1:nameid-format:emailAddress",
        "claims": {"role": "x"},
    },
    "passing": {
        "name": "_today",
        "format": "urn:oasis:names:tc:SAML:2.0:nameid-format:transient",
        "claims": {EMAIL: "ann@acme.example"},
    },
    "two": {"name": "id-of-two", "claims": {EMAIL: ["ann@acme.example", "max@acme.example"]}},
    "nobody": {"name": "id-of-nobody", "claims": {"role": "x"}},
}


@pytest.fixture(scope="session")
def provider():
    """The URL of a running provider."""
    port = providers_npm.free_port()
    with providers_npm.running("saml-idp.cjs", port, {"pairs": [pair.pem for pair in PAIRS], "accounts": ACCOUNTS}):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
async def idp(provider):
    """The same, doing what it does by default."""
    await control(provider)
    return provider


@pytest.fixture
async def api(clone, admin, valkey_url, tmp_path):
    settings = replace(web_api.settings_for(tmp_path, clone, valkey_url), egress_allow="127.0.0.1")
    async with web_api.running(settings, admin) as running:
        yield running


@pytest.fixture
async def sso(api, idp):
    """An instance whose owner has set the provider up by the URL of its metadata."""
    made = await set_provider(api, await api.owner(), metadataUrl=f"{idp}/metadata")
    assert made.status_code == 201, made.text
    return api


async def control(idp, **wanted):
    async with httpx.AsyncClient() as client:
        assert (await client.post(f"{idp}/control", json=wanted)).status_code == 200


async def set_provider(api, token, **changes):
    body = {"kind": "saml", "providerId": "corp", "domains": ["acme.example"]}
    async with api.client(token) as client:
        return await client.post(f"{API}/sso/providers", json=body | changes)


async def answered(browser, account, client=None):
    """Go to the provider and sign in there: the form with which it sends the browser back."""
    away = await browser.leave(client or Client())
    assert away.status_code == 303, away.text
    page = await browser.theirs.post(away.headers["location"], data={"login": account})
    assert page.status_code == 200, page.text
    action, values = form_of(page.text)
    assert action == ACS
    return values


async def post_from_provider(browser, values):
    """As a browser does that is on the provider's page: our cookies (SameSite=Lax) stay at home."""
    async with browser.api.client(Origin="http://127.0.0.1:1") as elsewhere:
        elsewhere.base_url = browser.api.settings.origin
        return await elsewhere.post(f"{API}/auth/saml/corp/acs", data=values)


async def deliver(browser, values):
    """Back from the provider: the relayed form comes from our own page, so with cookies."""
    relayed = await post_from_provider(browser, values)
    if relayed.status_code != 200:
        return relayed
    action, again = form_of(relayed.text)
    return await browser.ours.post(action, data=again, headers={"Origin": HERE})


async def signed_in(api, account):
    """The query with which the client is called back."""
    client = Client()
    async with Browser(api) as browser:
        answer = await deliver(browser, await answered(browser, account, client))
    assert answer.status_code == 303, answer.text
    assert answer.headers["location"].startswith(client.redirect_to)
    return client, query(answer.headers["location"])


async def last_reason(api):
    return await api.admin.fetchval(
        "SELECT detail::jsonb ->> 'reason' FROM audit_log WHERE action = 'session.refused' ORDER BY id DESC LIMIT 1"
    )


async def refusal(api, account):
    """What the client is told, and the reason that the audit trail has."""
    _, told = await signed_in(api, account)
    assert "code" not in told
    return told["error"], await last_reason(api)


def document(values):
    return base64.b64decode(values["SAMLResponse"])


def with_document(values, data):
    return values | {"SAMLResponse": base64.b64encode(data).decode()}


async def test_a_client_signs_in_through_the_provider(sso):
    client, told = await signed_in(sso, "ann")
    assert told.keys() == {"code", "state"}
    assert told["state"] == client.state
    answer = await exchange(sso, client, told["code"])
    assert answer.status_code == 200, answer.text
    async with sso.client(answer.json()["access_token"]) as http:
        me = (await http.get(f"{API}/users/me")).json()
    assert (me["email"], me["role"]) == ("ann@acme.example", "owner")
    assert await sso.admin.fetchval("SELECT subject FROM identities") == "id-of-ann"


async def test_a_browser_signs_in_and_goes_on(sso):
    async with Browser(sso) as browser:
        away = await browser.ours.get(f"{API}/auth/sign-in/corp", params={"continue": f"{API}/auth/device"})
        page = await browser.theirs.post(away.headers["location"], data={"login": "ann"})
        answer = await deliver(browser, form_of(page.text)[1])
        assert (answer.status_code, answer.headers["location"]) == (303, f"{API}/auth/device")
        assert "ann@acme.example" in (await browser.ours.get(answer.headers["location"])).text


async def test_the_relaying_page_sends_itself_and_may_lead_to_the_client_only(sso):
    async with Browser(sso) as browser:
        page = await post_from_provider(browser, await answered(browser, "ann"))
    policy = page.headers["content-security-policy"]
    assert "script-src 'sha256-" in policy
    assert "form-action 'self' http://127.0.0.1:54329;" in policy
    assert "<script>document.forms[0].submit()</script>" in page.text
    assert "set-cookie" not in page.headers


async def test_a_provider_by_the_text_of_its_metadata(api, idp):
    token = await api.owner()
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"{idp}/metadata")).text
    first = await set_provider(api, token, metadataXml=text)
    again = await set_provider(api, token, metadataXml=text)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["config"]["entityId"] == f"{idp}/metadata"
    assert first.json()["redirectUri"] == ACS
    _, told = await signed_in(api, "ann")
    assert "code" in told


async def test_an_administrator_is_warned_of_what_will_not_last(api, idp):
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"{idp}/metadata")).text
    old = new_pair(days=-1)
    body = {"metadataXml": text.replace(PAIRS[0].text, old.text)}
    made = await set_provider(api, await api.owner(), **body)
    assert made.json()["config"]["warnings"] == ["every signing certificate of the provider has expired"]


async def test_our_metadata_names_where_answers_go(sso):
    async with sso.client() as client:
        answer = await client.get(f"{API}/auth/saml/corp/metadata")
        other = await client.get(f"{API}/auth/saml/other/metadata")
    root = etree.fromstring(answer.content)
    assert root.get("entityID") == f"{HERE}{API}/auth/saml/corp/metadata"
    consumer = root.find(".//{*}AssertionConsumerService")
    assert (consumer.get("Location"), consumer.get("Binding")) == (
        ACS,
        "urn:oasis:names:tc:SAML:2.0:bindings:HTTP-POST",
    )
    assert root.find("{*}SPSSODescriptor").get("WantAssertionsSigned") == "true"
    assert (other.status_code, other.json()["code"]) == (404, "not_found")


async def test_an_e_mail_name_identifier_is_enough(sso):
    _, told = await signed_in(sso, "mail")
    assert "code" in told


async def test_who_is_unknown_is_created_only_where_the_provider_may(sso, idp):
    assert await refusal(sso, "new") == ("access_denied", "unknown_user")
    token = (await sso.login("ann@acme.example")).json()["access_token"]
    await set_provider(sso, token, metadataUrl=f"{idp}/metadata", createUsers=True, defaultTeam="acme")
    _, told = await signed_in(sso, "new")
    assert "code" in told
    row = await sso.admin.fetchrow("SELECT first_name, last_name FROM users WHERE email = 'new@acme.example'")
    assert tuple(row) == ("New", "One")


async def test_who_cannot_be_told_is_refused(sso):
    reasons = {account: (await refusal(sso, account))[1] for account in ("far", "passing", "two", "nobody")}
    assert reasons == {"far": "domain", "passing": "subject", "two": "email_form", "nobody": "email_form"}


async def test_a_provider_without_domains_is_not_made(api, idp):
    answer = await set_provider(api, await api.owner(), metadataUrl=f"{idp}/metadata", domains=[])
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (400, "domains")


ENCRYPTED = {
    "encryptionCert": PAIRS[0].pem["cert"],
    "encryptionPublicKey": PAIRS[0].public,
    "encryptionAlgorithm": "http://www.w3.org/2009/xmlenc11#aes256-gcm",
}
#: what the real provider is told to do, and why that is refused
MISBEHAVIOUR = {
    "sha1": ({"options": {"signatureAlgorithm": "rsa-sha1"}}, "algorithm"),
    "sha1 digest": ({"options": {"digestAlgorithm": "sha1"}}, "algorithm"),
    "only the response is signed": ({"options": {"signAssertion": False, "signResponse": True}}, "unsigned"),
    "nothing is signed": ({"options": {"signAssertion": False}}, "unsigned"),
    "encrypted": ({"options": ENCRYPTED}, "encrypted"),
    "unknown key": ({"pair": 1, "metadata": "<a/>"}, "signature"),
    "another audience": ({"asked": {"audience": "https://other.example"}}, "audience"),
    "another recipient": ({"asked": {"recipient": "https://other.example/acs"}}, "confirmation"),
    "another destination": ({"asked": {"destination": "https://other.example/acs"}}, "destination"),
    "another issuer": ({"options": {"issuer": "https://other.example"}}, "issuer"),
    "another request": ({"asked": {"inResponseTo": "_other"}}, "in_response_to"),
    "expired": ({"options": {"lifetimeInSeconds": -120}}, "expired"),
    "lasting for days": ({"options": {"lifetimeInSeconds": 200000}}, "confirmation"),
    "refused there": ({"fail": True}, "provider_refused"),
}  # fmt: skip


async def test_what_the_provider_should_not_do_is_refused(sso, idp):
    told = {}
    for name, (wanted, _) in MISBEHAVIOUR.items():
        await control(idp, **wanted)
        told[name] = await refusal(sso, "ann")
    assert told == {name: ("access_denied", reason) for name, (_, reason) in MISBEHAVIOUR.items()}


async def test_a_signed_response_with_a_signed_assertion_is_fine(sso, idp):
    await control(idp, options={"signResponse": True})
    _, told = await signed_in(sso, "ann")
    assert "code" in told


def forged(data, change):
    """The real answer with something else in its assertion, signed again with the provider's key."""
    root = etree.fromstring(data)
    old = root.find(f"{{{ASSERTION}}}Assertion")
    name = old.get("ID")
    old.remove(old.find("{http://www.w3.org/2000/09/xmldsig#}Signature"))
    change(old)
    done = etree.fromstring(signed(etree.tostring(old).decode(), PAIRS[0], name))
    root.replace(root.find(f"{{{ASSERTION}}}Assertion"), done)
    return etree.tostring(root)


def _set(path, name, value):
    def change(assertion):
        for element in assertion.iterfind(path) if path != "." else [assertion]:
            element.attrib.pop(name, None)
            if value is not None:
                element.set(name, value() if callable(value) else value)

    return change


def _without(path):
    def change(assertion):
        for element in list(assertion.iterfind(path)):
            element.getparent().remove(element)

    return change


def _at(seconds):
    return lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))


DATA = ".//{*}SubjectConfirmationData"
FORGERIES = {
    "nothing": (lambda _: None, None),
    "no audience": (_without(".//{*}AudienceRestriction"), "audience"),
    "no confirmation": (_without(".//{*}SubjectConfirmation"), "confirmation"),
    "no confirmation data": (_without(DATA), "confirmation"),
    "holder of key": (
        _set(".//{*}SubjectConfirmation", "Method", "urn:oasis:names:tc:SAML:2.0:cm:holder-of-key"),
        "confirmation",
    ),
    "no recipient": (_set(DATA, "Recipient", None), "confirmation"),
    "no end": (_set(DATA, "NotOnOrAfter", None), "confirmation"),
    "confirmed for another request": (_set(DATA, "InResponseTo", "_other"), "confirmation"),
    "confirmed for no request": (_set(DATA, "InResponseTo", None), "confirmation"),
    "confirmation has ended": (_set(DATA, "NotOnOrAfter", _at(-90)), "confirmation"),
    "not valid yet": (_set(".//{*}Conditions", "NotBefore", _at(90)), "not_yet"),
    "made before the sign-in": (_set(".", "IssueInstant", _at(-90)), "issued_at"),
    "made in the future": (_set(".", "IssueInstant", _at(90)), "issued_at"),
    "session has ended": (_set(".//{*}AuthnStatement", "SessionNotOnOrAfter", _at(-90)), "expired"),
    "a time without a zone": (_set(".//{*}Conditions", "NotBefore", "2026-01-01T00:00:00"), "form"),
    "clocks differ a little": (_set(".//{*}Conditions", "NotBefore", _at(30)), None),
}


async def test_an_assertion_that_is_signed_must_be_right_too(sso):
    told = {}
    async with Browser(sso) as browser:
        for name, (change, _) in FORGERIES.items():
            values = await answered(browser, "ann")
            answer = await deliver(browser, with_document(values, forged(document(values), change)))
            is_in = "code" in query(answer.headers["location"])
            told[name] = None if is_in else await last_reason(sso)
    assert told == {name: reason for name, (_, reason) in FORGERIES.items()}


async def test_wrapped_signatures_are_refused(sso):
    reasons = []
    async with Browser(sso) as browser:
        for variant in range(1, 9):
            values = await answered(browser, "max")
            answer = await deliver(browser, with_document(values, wrapped(document(values), variant)))
            reasons.append((query(answer.headers["location"]).get("error"), await last_reason(sso)))
    assert reasons == [("access_denied", "wrapping")] * 8


GARBAGE = {
    "nothing": (b"", "malformed"),
    "text": (b"hello", "malformed"),
    "bomb": (b'<!DOCTYPE a [<!ENTITY a "a">]><a>&a;</a>', "doctype"),
    "file": (b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "doctype"),
    "deep": (b"<a>" * 5000, "too_large"),
    "another document": (b"<a/>", "form"),
    "large": (b"<a>" + b"x" * 300_000 + b"</a>", "too_large"),
}


async def test_garbage_is_refused_on_a_page(sso):
    reasons = {}
    async with Browser(sso) as browser:
        for name, (data, _) in GARBAGE.items():
            away = await browser.ours.get(f"{API}/auth/sign-in/corp")
            state = query(away.headers["location"])["RelayState"]
            answer = await deliver(browser, {"SAMLResponse": base64.b64encode(data).decode(), "RelayState": state})
            assert answer.headers["content-type"].startswith("text/html")
            assert (answer.status_code, "Sign-in refused" in answer.text) == (403, True)
            reasons[name] = await last_reason(sso)
    assert reasons == {name: reason for name, (_, reason) in GARBAGE.items()}


async def test_what_is_not_even_base64_is_refused(sso):
    async with Browser(sso) as browser:
        values = await answered(browser, "ann")
        answer = await deliver(browser, values | {"SAMLResponse": "%%%"})
    assert (query(answer.headers["location"])["error"], await last_reason(sso)) == ("access_denied", "form")


async def test_a_broken_form_is_no_bug(sso):
    bodies = [b"", b"\xff\xfe", b"SAMLResponse=x&SAMLResponse=y", b"a=b", b"SAMLResponse=" + b"A" * 2_000_000]
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    async with sso.client() as client:
        answers = [await client.post(f"{API}/auth/saml/corp/acs", content=body, headers=form) for body in bodies]
    assert [answer.status_code for answer in answers] == [403, 403, 400, 403, 413]


async def test_an_unsolicited_answer_is_refused(sso, idp):
    values = {"SAMLResponse": base64.b64encode(Said().signed(PAIRS[0])).decode(), "RelayState": "/"}
    async with Browser(sso) as browser:
        await browser.leave(Client())
        first = await post_from_provider(browser, values)
        second = await browser.ours.post(f"{API}/auth/saml/corp/acs", data=values)
    assert (first.status_code, second.status_code) == (403, 403)


async def test_an_answer_for_another_browser_is_refused(sso):
    """Nobody can be signed in as somebody else by being sent a form."""
    async with Browser(sso) as attacker, Browser(sso) as victim:
        values = await answered(attacker, "max")
        await victim.leave(Client())
        answer = await deliver(victim, values)
        assert (answer.status_code, "Sign-in refused" in answer.text) == (403, True)
    async with Browser(sso) as fresh:
        assert (await deliver(fresh, values)).status_code == 403


async def test_an_answer_to_one_sign_in_does_not_end_another_one(sso):
    async with Browser(sso) as browser:
        first = await answered(browser, "ann")
        second = await answered(browser, "ann")
        mixed = await deliver(browser, second | {"SAMLResponse": first["SAMLResponse"]})
    assert (query(mixed.headers["location"])["error"], await last_reason(sso)) == ("access_denied", "in_response_to")


async def test_an_answer_is_taken_once(sso):
    async with Browser(sso) as browser:
        values = await answered(browser, "ann")
        assert "code" in query((await deliver(browser, values)).headers["location"])
        assert (await deliver(browser, values)).status_code == 403


async def test_an_assertion_is_taken_once_whatever_the_flow(sso):
    """The same assertion id in another answer: refused until it has expired."""
    async with Browser(sso) as browser:
        first = await answered(browser, "ann")
        assert "code" in query((await deliver(browser, first)).headers["location"])
        name = etree.fromstring(document(first)).find(f"{{{ASSERTION}}}Assertion").get("ID")
        second = await answered(browser, "ann")
        root = etree.fromstring(document(second))
        old = root.find(f"{{{ASSERTION}}}Assertion")
        old.set("ID", name)
        old.remove(old.find("{http://www.w3.org/2000/09/xmldsig#}Signature"))
        root.replace(old, etree.fromstring(signed(etree.tostring(old).decode(), PAIRS[0], name)))
        answer = await deliver(browser, with_document(second, etree.tostring(root)))
    assert (query(answer.headers["location"])["error"], await last_reason(sso)) == ("access_denied", "replay")


async def test_a_new_key_of_the_provider_works_at_once(sso, idp):
    await sso.admin.execute("UPDATE identity_providers SET updated_at = now() - interval '10 minutes'")
    await control(idp, pair=1)
    _, told = await signed_in(sso, "ann")
    assert "code" in told
    await control(idp, pair=0)  # and the old one does not any more
    assert await refusal(sso, "ann") == ("access_denied", "signature")


async def test_metadata_is_fetched_again_when_it_is_old(sso, idp):
    await sso.admin.execute("UPDATE identity_providers SET updated_at = now() - interval '2 hours'")
    await signed_in(sso, "ann")
    assert await sso.admin.fetchval("SELECT count(*) FROM saml_metadata WHERE fetched_at IS NOT NULL") == 1


async def test_metadata_that_is_away_serves_on_for_a_week(sso, idp):
    await control(idp, metadata="<gone/>")
    await sso.admin.execute("UPDATE identity_providers SET updated_at = now() - interval '6 days'")
    _, told = await signed_in(sso, "ann")
    assert "code" in told
    await sso.admin.execute("UPDATE identity_providers SET updated_at = now() - interval '8 days'")
    async with Browser(sso) as browser:
        away = await browser.leave(Client())
    assert away.status_code == 502


async def test_metadata_of_another_provider_is_not_taken_over(sso, idp):
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"{idp}/metadata")).text
    evil = text.replace(f'entityID="{idp}/metadata"', 'entityID="https://evil.example"')
    await control(idp, metadata=evil.replace(PAIRS[0].text, PAIRS[1].text))
    await sso.admin.execute("UPDATE identity_providers SET updated_at = now() - interval '2 hours'")
    _, told = await signed_in(sso, "ann")
    assert "code" in told
    assert await sso.admin.fetchval("SELECT count(*) FROM saml_metadata WHERE fetched_at IS NOT NULL") == 0


async def test_metadata_that_has_expired_opens_nothing(api, idp):
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"{idp}/metadata")).text
    token = await api.owner()
    old = text.replace("<EntityDescriptor", '<EntityDescriptor validUntil="2020-01-01T00:00:00Z"')
    refused = await set_provider(api, token, metadataXml=old)
    assert (refused.status_code, "expired" in refused.json()["detail"]) == (422, True)


async def test_metadata_that_cannot_be_had_is_told_clearly(api, idp):
    wanted = [
        ({"metadataXml": "<a/>"}, 400),
        ({"metadataXml": '<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>'}, 400),
        ({"metadataXml": "no xml"}, 400),
        ({"metadataUrl": f"{idp}/nowhere"}, 422),
        ({"metadataUrl": "http://10.0.0.1/metadata"}, 422),
        ({"metadataUrl": "https://169.254.169.254/latest"}, 422),
        ({"metadataUrl": "file:///etc/passwd"}, 422),
        ({"metadataUrl": f"{idp}/metadata", "metadataXml": "<a/>"}, 400),
    ]
    token = await api.owner()
    answers = [await set_provider(api, token, **body) for body, _ in wanted]
    assert [answer.status_code for answer in answers] == [status for _, status in wanted]
    assert all(answer.json()["detail"] and "/etc/passwd" not in answer.text for answer in answers)


async def test_a_provider_of_another_kind_has_no_such_address(api, idp):
    token = await api.owner()
    async with api.client(token) as client:
        body = {
            "kind": "github",
            "providerId": "hub",
            "clientId": "x",
            "clientSecret": "y",
            "domains": ["acme.example"],
        }
        assert (await client.post(f"{API}/sso/providers", json=body)).status_code == 201
        assert (await client.get(f"{API}/auth/saml/hub/metadata")).status_code == 404
        assert (await client.post(f"{API}/auth/saml/hub/acs", data={"SAMLResponse": "x"})).status_code == 404


async def test_the_room_can_do_nothing_but_read(tmp_path):
    """The filter of the process itself, asked from within it."""
    probe = tmp_path / "probe.py"
    probe.write_text(
        "import os, socket, sys\n"
        f"sys.path[:0] = {[path for path in sys.path if path]!r}\n"
        "from sfp_server.identity.saml import inside, response\n"
        "inside._load(response)\n"
        "inside._lock()\n"
        "def tried(what):\n"
        "    try:\n"
        "        what()\n"
        "    except OSError as error:\n"
        "        return error.errno\n"
        "    return 0\n"
        "results = [tried(lambda: os.open('/etc/passwd', os.O_RDONLY)), tried(lambda: os.open('/tmp/x', os.O_WRONLY | os.O_CREAT)),\n"
        "  tried(lambda: socket.socket()), tried(lambda: socket.socket(socket.AF_UNIX)), tried(os.fork),\n"
        "  tried(lambda: os.execv('/bin/true', ['true'])), tried(lambda: os.kill(1, 0)), tried(lambda: os.read(7, 1)),\n"
        "  tried(lambda: os.write(2, b'x')), tried(lambda: os.listdir('/'))]\n"
        "os.write(1, repr(results).encode())\n"
        "os._exit(0)\n"
    )
    import asyncio

    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", str(probe), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env={}
    )
    said, _ = await process.communicate()
    assert said == repr([1] * 10).encode()


async def test_without_the_filter_nothing_is_read():
    room = XmlRoom(command=(sys.executable, "-c", "raise SystemExit(3)"))
    with pytest.raises(Unavailable, match="libseccomp"):
        await room.metadata(b"<a/>")


@pytest.mark.parametrize(
    "program",
    [
        "raise SystemExit(1)",
        "import os; os.write(1, b'\\n'); os.read(0, 1); os.write(1, b'[1, 2]\\n')",
        "import os; os.write(1, b'\\n'); os.read(0, 1); os.write(1, b'{\"facts\": {\"entity_id\": 7}}\\n')",
        "import os; os.write(1, b'\\n'); os.read(0, 1); os.write(1, b'x' * 5_000_000)",
        "import os; os.write(1, b'\\n'); os.kill(os.getpid(), 9)",
    ],
    ids=["ends", "nonsense", "wrong facts", "endless", "killed"],
)
async def test_a_room_that_was_broken_into_says_nothing_that_is_believed(program):
    with pytest.raises(XmlRefused) as refused:
        await XmlRoom(command=(sys.executable, "-I", "-c", program)).metadata(b"<a/>")
    assert refused.value.reason == "unreadable"


async def test_a_room_that_does_not_end_is_ended(monkeypatch):
    monkeypatch.setattr("sfp_server.identity.saml.room.PATIENCE", 0.3)
    with pytest.raises(XmlRefused):
        await XmlRoom(command=(sys.executable, "-I", "-c", "import os; os.write(1, b'\\n'); os.read(0, 1); os.read(0, 9**9); import time; time.sleep(60)")).metadata(b"<a/>")  # fmt: skip
