"""Who is answered: hosts, origins, machines, tokens and roles; and what every answer says to a browser."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.console.web import Asked
from tests.ops.console.shown import Shown, showing
from tests.ops.sites import make_site, publish

MOVE = "/lane/acme/support/move"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lane with two versions."""
    settings = make_site(tmp_path_factory.mktemp("made") / "site")
    publish(settings, b"one", b"two")
    return settings


@pytest.fixture
def shown(made: Path, tmp_path: Path) -> Iterator[Shown]:
    """A copy of its own; neither Redis nor a gateway runs."""
    settings = Path(shutil.copytree(made.parent, tmp_path / "site")) / made.name
    with showing(settings, hosts=frozenset({"console.example.com"})) as console:
        yield console


def asked(**headers: str) -> Asked:
    return Asked(method="GET", path="/console", headers={name.replace("_", "-"): at for name, at in headers.items()})


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:9471", 200), ("127.0.0.1", 200), ("console.example.com", 200), ("rebound.example.org:9471", 403)],
)
def test_a_name_that_is_not_ours_is_refused_since_it_may_be_rebound(shown: Shown, host: str, status: int) -> None:
    assert shown.get(host=host).status_code == status
    assert shown.post(MOVE, shown.token("admin"), {"kind": "pause", "why": "x"}, host=host).status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"sec_fetch_site": "same-origin"}, 200),
        ({"sec_fetch_site": "none", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}, 200),
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}, 200),
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"}, 403),
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors", "sec_fetch_dest": "image"}, 403),
        ({"sec_fetch_site": "same-site", "sec_fetch_mode": "cors", "sec_fetch_dest": "empty"}, 403),
        ({"origin": "https://elsewhere.example"}, 403),
        ({"origin": "null"}, 403),
    ],
)
def test_what_another_page_makes_a_browser_send_is_refused_but_for_a_link_that_is_followed(
    shown: Shown, headers: dict[str, str], status: int
) -> None:
    assert shown.get(**headers).status_code == status


def test_a_form_of_another_page_moves_nothing_even_with_a_token(shown: Shown) -> None:
    token, form = shown.token("admin"), {"kind": "pause", "why": "because"}
    navigated = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
    assert shown.post(MOVE, token, form, **navigated).status_code == 403
    assert shown.post(MOVE, token, form, origin="http://localhost:3000").status_code == 403
    ours = str(shown.http.base_url).rstrip("/")
    assert shown.post(MOVE, token, form, origin=ours, sec_fetch_site="same-origin").status_code == 200


def test_a_cookie_opens_nothing(shown: Shown) -> None:
    token = shown.token("admin")
    shown.http.cookies.set("authorization", f"Bearer {token}")
    shown.http.cookies.set("token", token)
    answer = shown.post(MOVE, None, {"kind": "pause", "why": "because"})
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    ("peer", "headers", "here"),
    [
        ("127.0.0.1", {}, True),
        ("::1", {}, True),
        ("::ffff:127.0.0.1", {}, True),
        ("10.0.0.7", {}, False),
        ("fe80::1%eth0", {}, False),
        ("127.0.0.1", {"x-forwarded-for": "10.0.0.7"}, False),
        ("127.0.0.1", {"forwarded": "for=10.0.0.7"}, False),
        ("", {}, False),
    ],
)
def test_this_machine_is_loopback_without_a_proxy(peer: str, headers: dict[str, str], here: bool) -> None:  # noqa: FBT001
    assert Asked(method="GET", path="/console", headers=headers, peer=peer).from_this_machine is here


def test_from_elsewhere_everything_needs_a_token_and_nothing_is_said_before(shown: Shown) -> None:
    for path in ("", "/lane/acme/support", "/lane/acme/support/buffer", "/lane/acme/nowhere"):
        answer = shown.get(path, x_forwarded_for="10.0.0.7")
        assert answer.status_code == 401
        assert "acme/support" not in answer.text
    assert "acme/support" in shown.get("", shown.token("view"), x_forwarded_for="10.0.0.7").text


def test_a_wrong_token_is_told_and_shows_not_even_what_none_would(shown: Shown) -> None:
    answer = shown.get("", "ust_wrong")
    assert answer.status_code == 401
    assert "mistyped" in answer.text
    assert "acme/support" not in answer.text


@pytest.mark.parametrize(("role", "status"), [(None, 401), ("view", 403), ("operate", 200), ("admin", 200)])
def test_moves_need_the_role_operate(shown: Shown, role: str | None, status: int) -> None:
    token = None if role is None else shown.token(role)  # type: ignore[arg-type]
    assert shown.get(f"{MOVE}?kind=rollback", token).status_code == status
    answer = shown.post(MOVE, token, {"kind": "rollback", "why": "because"})
    assert answer.status_code == status
    moves = shown.site.registry.moves(shown.site.lane(None).lane).read()
    assert [move.kind for move in moves] == ["promote", "promote", *(["rollback"] if status == 200 else [])]


def test_a_revoked_token_opens_nothing_from_the_next_request_on(shown: Shown) -> None:
    old = shown.token("operate")
    new = shown.token("operate")
    assert shown.get("", old).status_code == shown.get("", new).status_code == 200
    shown.token("operate")
    assert (shown.get("", old).status_code, shown.get("", new).status_code) == (401, 200)


@pytest.mark.parametrize("path", ["", "/lane/acme/support/history", "/nowhere", "/static/x/console.js", "/static/x/no"])
def test_every_answer_forbids_scripts_of_others_frames_and_sniffing(shown: Shown, path: str) -> None:
    headers = shown.get(path).headers
    rules = dict(one.strip().split(" ", 1) for one in headers["content-security-policy"].split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["frame-ancestors"] == "'none'"
    assert {rules[f"{kind}-src"] for kind in ("script", "style", "connect", "img")} == {"'self'"}
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert ("no-store" in headers["cache-control"]) is not path.endswith(".js")


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
def test_other_methods_are_refused(shown: Shown, method: str) -> None:
    assert shown.http.request(method, "/console").status_code == 405


def test_a_body_that_is_too_long_is_refused(shown: Shown) -> None:
    answer = shown.post(MOVE, shown.token("admin"), {"kind": "pause", "why": "x" * 40_000})
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "path", ["/static/../app.py", "/static/x/..%2Fapp.py", "/static/", "/lane/acme", "/lane/a/b/c/d"]
)
def test_there_is_no_way_out_of_the_pages(shown: Shown, path: str) -> None:
    assert shown.get(path).status_code == 404


def test_probes_stay_closed_to_pages_and_posts(shown: Shown) -> None:
    assert shown.http.get("/metrics", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert shown.http.post("/metrics").status_code == 405
    assert shown.http.get("/consoles").status_code == 404
