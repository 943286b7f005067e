"""The page on which a person lets a device in."""

from urllib.parse import parse_qs, urlsplit

import pytest

from browser import Browser, form_of
from web_api import API, PASSWORD

PAGE = f"{API}/auth/device"
HERE = {"Origin": "https://localhost:8443"}


@pytest.fixture
async def ann(api):
    """A browser in which ann has signed in; `token` is hers."""
    token = await api.owner()
    async with Browser(api) as browser:
        action, values = form_of((await browser.ours.get(f"{API}/auth/sign-in")).text)
        filled = values | {"email": "ann@acme.example", "password": PASSWORD}
        assert (await browser.ours.post(action, data=filled, headers=HERE)).status_code == 303
        browser.token = token
        yield browser


async def ask(api, agent="sfp/1.0 on buildbox"):
    async with api.client(address="198.51.100.7", **{"User-Agent": agent}) as client:
        return (await client.post(f"{API}/auth/device/code", json={})).json()


async def poll(api, codes):
    async with api.client() as client:
        return await client.post(f"{API}/auth/device/token", json={"device_code": codes["device_code"]})


async def typed(browser, code):
    """The page that follows after the code was typed."""
    action, values = form_of((await browser.ours.get(PAGE)).text)
    return await browser.ours.post(action, data=values | {"user_code": code}, headers=HERE)


@pytest.mark.parametrize(("decision", "status"), [("approve", 200), ("deny", 400)])
async def test_a_person_decides_about_a_device(ann, decision, status):
    codes = await ask(ann.api)
    page = await typed(ann, codes["user_code"].lower())
    for shown in (codes["user_code"], "sfp/1.0 on buildbox", "198.51.100.7", "ann@acme.example", "Agree only if"):
        assert shown in page.text
    action, values = form_of(page.text)
    done = await ann.ours.post(action, data=values | {"decision": decision}, headers=HERE)
    assert done.status_code == 200
    answer = await poll(ann.api, codes)
    assert answer.status_code == status
    assert answer.json().get("error") == (None if decision == "approve" else "access_denied")


async def test_a_link_fills_the_code_in_and_decides_nothing(ann):
    codes = await ask(ann.api)
    page = await ann.ours.get(codes["verification_uri_complete"])
    assert f'value="{codes["user_code"]}"' in page.text
    assert (await poll(ann.api, codes)).json()["error"] == "authorization_pending"


async def test_who_is_not_signed_in_does_that_first_and_comes_back(api):
    async with Browser(api) as browser:
        answer = await browser.ours.get(PAGE, params={"user_code": "BCDF-GHJK"})
    assert answer.status_code == 303
    place = urlsplit(answer.headers["location"])
    assert (place.path, parse_qs(place.query)["continue"]) == (f"{API}/auth/sign-in", [f"{PAGE}?user_code=BCDF-GHJK"])


async def test_a_form_of_somebody_else_decides_nothing(ann):
    codes = await ask(ann.api)
    form = {"user_code": codes["user_code"], "decision": "approve"}
    answers = [
        await ann.ours.post(PAGE, data=form, headers=HERE),
        await ann.ours.post(PAGE, data=form | {"csrf": "x" * 43}, headers=HERE),
        await ann.ours.post(PAGE, data=form | {"csrf": "\u00e9"}, headers=HERE),
    ]
    assert [answer.status_code for answer in answers] == [400, 403, 403]
    async with Browser(ann.api) as other:
        page = await other.ours.get(f"{API}/auth/sign-in")
        stolen = form_of(page.text)[1]["csrf"]
    assert (await ann.ours.post(PAGE, data=form | {"csrf": stolen}, headers=HERE)).status_code == 403
    right = form_of((await ann.ours.get(PAGE)).text)[1]["csrf"]
    elsewhere = await ann.ours.post(PAGE, data=form | {"csrf": right}, headers={"Origin": "https://evil.example"})
    assert elsewhere.status_code == 403
    assert (await poll(ann.api, codes)).json()["error"] == "authorization_pending"


async def test_a_wrong_code_is_told_on_the_page_and_counts(ann):
    for _ in range(5):
        page = await typed(ann, "BCDF-GHJK")
        assert (page.status_code, "no device waits for this code" in page.text) == (404, True)
    assert (await typed(ann, "BCDF-GHJK")).status_code == 429


async def test_what_a_device_says_of_itself_is_only_text(ann):
    codes = await ask(ann.api, "<script>alert(1)</script>")
    page = await typed(ann, codes["user_code"])
    assert "&lt;script&gt;alert(1)" in page.text
    assert "<script" not in page.text
    assert "script-src" not in page.headers["content-security-policy"]
