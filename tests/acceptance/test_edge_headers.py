"""What a stranger sees of the edge: the same header on its own answers as on those that it passes on."""

import httpx

from sfp_server.web.headers import ALWAYS


def test_the_edge_says_what_the_api_says_and_not_what_it_is(healthy):
    with httpx.Client(base_url=healthy.url, verify=healthy.tls(), timeout=10) as http:
        answers = {
            "passed on": http.get("/health"),
            "refused by the API": http.get("/sfp/api/tasks"),
            "not there": http.get("/nowhere"),
            "for nobody": http.get("/health", headers={"Host": "evil.example"}),
        }
    assert [answer.status_code for answer in answers.values()] == [200, 401, 404, 421]
    for what, answer in answers.items():
        seen = {name.decode(): answer.headers.get_list(name.decode()) for name, _ in ALWAYS}
        assert seen == {name.decode(): [value.decode()] for name, value in ALWAYS}, what
        assert answer.headers.get_list("cache-control") == ["no-store"], what
        assert answer.headers.get_list("content-security-policy") == ["default-src 'none'; frame-ancestors 'none'"], (
            what
        )
        assert not {"server", "via", "x-powered-by"} & set(answer.headers), what
