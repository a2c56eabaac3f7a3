"""Who may ask: hosts, origins, tokens, and what every answer tells a browser."""

from math import inf, nan
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from serving import FakeWorker  # first: skips where the extra is missing
from transunet.errors import ConfigError
from transunet.serve import security
from transunet.serve.api.app import PAGE, POLICY_FILE, with_page
from transunet.serve.prometheus import ServerMetrics
from transunet.serve.security import Guard
from transunet.serve.server_settings import API, Limits, ServeSettings, new_token

TOKEN = "a-token-of-some-length"


SITE = "https://app.example"


def guarded(app, token=None, hours=None, origins=()):
    settings = ServeSettings(
        Path("unused"), token=token, token_hours=hours, allowed_origins=tuple(origins)
    )
    return Guard(app, settings, ServerMetrics())


def client(token=None, hours=None, base="http://127.0.0.1:8000", origins=()):
    async def answer(request):
        return PlainTextResponse("fine")

    methods = ["GET", "POST", "DELETE"]
    app = Starlette(routes=[Route("/{path:path}", answer, methods=methods)])
    return TestClient(guarded(app, token, hours, origins), base)


def code_of(answer):
    return answer.json()["error"]["code"] if answer.status_code != 200 else None


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("127.0.0.1:8000", None),
        ("localhost:9999", None),
        ("[::1]:8000", None),
        ("evil.example", "wrong_host"),
        ("127.0.0.1.evil.example:8000", "wrong_host"),
        ("localhost.evil.example", "wrong_host"),
        ("127.0.0.1@evil.example", "wrong_host"),
        ("", "wrong_host"),
        ("[", "wrong_host"),
    ],
)
def test_without_a_token_only_this_machines_names_count(host, code):
    for path in ("/", f"{API}/jobs", f"{API}/health"):
        assert code_of(client().get(path, headers={"host": host})) == code


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, None),
        ({"origin": "http://127.0.0.1:8000"}, None),
        ({"sec-fetch-site": "same-origin"}, None),
        ({"sec-fetch-site": "none"}, None),
        ({"origin": "http://evil.example"}, "wrong_origin"),
        ({"origin": "http://127.0.0.1:9000"}, "wrong_origin"),
        ({"origin": "null"}, "wrong_origin"),
        ({"origin": "http://["}, "wrong_origin"),
        ({"sec-fetch-site": "cross-site"}, "wrong_origin"),
        ({"sec-fetch-site": "same-site"}, "wrong_origin"),
    ],
)
def test_without_a_token_only_this_page_may_use_the_api(headers, code):
    for method in ("GET", "POST", "DELETE"):
        assert code_of(client().request(method, f"{API}/jobs", headers=headers)) == code


def preflight(client, origin=SITE, **headers):
    asked = {"access-control-request-method": "POST", **headers, "origin": origin}
    return client.options(f"{API}/jobs", headers=asked)


@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_site_that_is_allowed_by_name_may_use_the_api(token):
    there = client(token, origins=[SITE])
    wanted = "authorization,content-type"
    asked = preflight(there, **{"access-control-request-headers": wanted})
    assert asked.status_code == 204
    assert asked.headers["access-control-allow-origin"] == SITE
    assert asked.headers["access-control-allow-headers"] == wanted
    assert "POST" in asked.headers["access-control-allow-methods"]
    assert asked.headers["vary"] == "Origin"
    headers = {"origin": SITE, "sec-fetch-site": "cross-site"}
    if token:
        refused = there.post(f"{API}/jobs", headers=headers)
        assert refused.status_code == 401  # and the page may read why
        assert refused.headers["access-control-allow-origin"] == SITE
        headers["authorization"] = f"Bearer {token}"
    answer = there.post(f"{API}/jobs", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == SITE
    assert "Location" in answer.headers["access-control-expose-headers"]


@pytest.mark.parametrize("token", [None, TOKEN])
@pytest.mark.parametrize("origins", [[], [SITE]])
@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://app.example", "null", f"{SITE}.x"]
)
def test_other_sites_may_not_and_are_told_how(token, origins, origin):
    asked = preflight(client(token, origins=origins), origin)
    assert (asked.status_code, code_of(asked)) == (403, "wrong_origin")
    assert "--allow-origin" in asked.json()["error"]["remedy"]
    assert "access-control-allow-origin" not in asked.headers


def test_a_site_that_is_allowed_still_asks_by_this_machines_name():
    there = client(origins=[SITE])
    assert code_of(preflight(there, host="evil.example")) == "wrong_host"


@pytest.mark.parametrize(
    "origin", ["*", "null", "app.example", "https://app.example/", "ftp://a", ""]
)
def test_an_origin_is_scheme_host_and_port(tmp_path, origin):
    with pytest.raises(ConfigError, match="--allow-origin"):
        ServeSettings(tmp_path, allowed_origins=(origin,))
    ServeSettings(tmp_path, allowed_origins=("http://localhost:3000", "https://[::1]:8443", SITE))


def test_another_site_may_link_to_the_page():
    assert client().get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200
    answer = client().post("/", headers={"sec-fetch-site": "cross-site"})
    assert code_of(answer) == "wrong_origin"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"authorization": f"Bearer {TOKEN}"}, None),
        ({"authorization": f"bearer {TOKEN}", "host": "any.example"}, None),
        ({}, "unauthorized"),
        ({"authorization": f"Bearer {TOKEN}x"}, "unauthorized"),
        ({"authorization": "Bearer "}, "unauthorized"),
        ({"authorization": f"Basic {TOKEN}"}, "unauthorized"),
        ({"authorization": b"Bearer \xff\xfe"}, "unauthorized"),
    ],
)
def test_with_a_token_it_is_what_counts(headers, code):
    answer = client(TOKEN).get(f"{API}/jobs", headers=headers)
    assert code_of(answer) == code
    assert ("www-authenticate" in answer.headers) == (code is not None)
    assert TOKEN not in answer.text


def test_a_token_in_the_address_is_no_token():
    assert code_of(client(TOKEN).get(f"{API}/jobs?token={TOKEN}")) == "unauthorized"


def test_the_page_and_health_need_no_token():
    for path in ("/", "/index.js", f"{API}/health", f"{API}/ready", f"{API}/docs"):
        assert client(TOKEN).get(path).status_code == 200


def test_a_token_expires(monkeypatch):
    there = client(TOKEN, hours=2)
    headers = {"authorization": f"Bearer {TOKEN}"}
    assert there.get(f"{API}/jobs", headers=headers).status_code == 200
    later = security.time.time() + 2 * 3600 + 1
    monkeypatch.setattr(security.time, "time", lambda: later)
    answer = there.get(f"{API}/jobs", headers=headers)
    assert (answer.status_code, code_of(answer)) == (401, "token_expired")
    assert "new one" in answer.json()["error"]["remedy"]
    assert code_of(there.get(f"{API}/jobs")) == "unauthorized"


@pytest.mark.parametrize("host", ["127.0.0.1", "evil.example"])
def test_every_answer_tells_browsers_what_they_may(host):
    headers = client().get("/", headers={"host": host}).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_the_pages_own_policy_allows_nothing_from_elsewhere():
    if not (PAGE / POLICY_FILE).is_file():
        pytest.skip("the page is not built: make web")
    text = TestClient(guarded(with_page(None)), "http://127.0.0.1").get("/")
    policy = dict(p.split(" ", 1) for p in text.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    for sources in policy.values():
        assert set(sources.split()) <= {"'none'", "'self'", "data:", "blob:", "'wasm-unsafe-eval'"}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "server.example", "127.0.0.1.x"])
def test_any_other_address_needs_a_token(tmp_path, host):
    with pytest.raises(ConfigError, match="--token auto"):
        ServeSettings(tmp_path, host=host)
    assert not ServeSettings(tmp_path, host=host, token=new_token()).loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_loopback_needs_none(tmp_path, host):
    assert ServeSettings(tmp_path, host=host).loopback


@pytest.mark.parametrize("token", ["short", "x" * 15, "with spaces in between", "ünïcödé-letters-"])
def test_a_token_that_is_no_good(tmp_path, token):
    with pytest.raises(ConfigError, match="16 or more"):
        ServeSettings(tmp_path, token=token)


def test_other_settings_that_cannot_work(tmp_path):
    with pytest.raises(ConfigError, match="Add --token"):
        ServeSettings(tmp_path, token_hours=3)
    for hours in (0, nan, inf):  # a token of NaN hours would never expire
        with pytest.raises(ConfigError, match="above 0 and finite"):
            ServeSettings(tmp_path, token=TOKEN, token_hours=hours)
        with pytest.raises(ConfigError, match=r"keep_hours=.*above 0 and finite"):
            Limits(keep_hours=hours)
    with pytest.raises(ConfigError, match="queue"):
        Limits(queue=0)


async def _api(scope, receive, send):
    await PlainTextResponse("api")(scope, receive, send)


def test_a_checkout_without_the_page_says_how_to_build_it(tmp_path):
    http = TestClient(with_page(_api, tmp_path / "none"))
    answer = http.get("/")
    assert answer.status_code == 503
    assert "make web" in answer.text
    assert "Node" in answer.text
    assert http.get(f"{API}/health").text == "api"


def test_the_page_and_nothing_around_it_is_served(tmp_path):
    page = tmp_path / "page"
    page.mkdir()
    (page / "index.html").write_text("<p>hello")
    (page / "index.js").write_text("1")
    (page / "csp.txt").write_text("default-src 'self'\n")
    (tmp_path / "secret").write_text("no")
    http = TestClient(with_page(_api, page))
    assert "hello" in http.get("/").text
    assert http.get("/").headers["content-security-policy"] == "default-src 'self'"
    assert http.get("/index.js").headers["content-type"].startswith("text/javascript")
    for path in ("/../secret", "/%2e%2e/secret", "/..%2fsecret", "/%2fsecret", "/gone.js"):
        assert http.get(path).status_code == 404


def test_files_may_be_sent_where_they_are_taken_and_nowhere_else():
    for path in (
        "images",
        "segment",
        "images/1/labels",
        "images/1/corrections",
        "jobs/1/reference",
    ):
        assert client().post(f"{API}/{path}", content=bytes(100_000)).status_code == 200
    assert code_of(client().post(f"{API}/jobs", content=bytes(100_000))) == "too_large"


def test_the_description_says_what_needs_the_token(tmp_path, bundles):
    from transunet.serve.api.app import create_app
    from transunet.serve.service import Service

    service = Service([str(bundles / "brain")], ServeSettings(tmp_path, token=TOKEN), FakeWorker())
    with TestClient(create_app(service), "http://127.0.0.1:8000") as there:
        document = there.get(f"{API}/openapi.json").json()
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    free = {
        path
        for path, operations in document["paths"].items()
        for operation in operations.values()
        if operation.get("security") != [{"token": []}]
    }
    assert free == {f"{API}/health", f"{API}/ready"}
