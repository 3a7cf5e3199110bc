"""Pages of all three tasks: the values of the commands, texts for who may read them, nothing that a browser runs."""

import re
import threading
from html import unescape
from html.parser import HTMLParser
from typing import Any

import pytest
import redis

from ops.console import reads
from ops.console.views import buffer as looking
from ops.console.views import lane as lanes
from ops.show.values import ratio_of, time_of
from ops.site import Site
from ops.status.collect import collect
from ops.status.past import past_of
from ops.status.shown import lane_fields
from store.event import Lane
from tests.ops.console.shown import Shown
from tests.ops.furnished import DESK, HOSTILE, LANES, SHOP, SUPPORT

CLOCKED = {"cycle now", "answers", "unreadable"}  # values that differ from one second to the next


def of(lane: Lane, page: str = "") -> str:
    return f"/lane/{lane}{page}"


def tags_of(html: str) -> list[tuple[str, dict[str, str | None]]]:
    """Every element that a browser would see, with its attributes."""
    found = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.append((tag, dict(attrs)))

    Reader().feed(html)
    return found


def text_of(html: str) -> str:
    """What a reader sees, blanks made one."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", html)))


@pytest.mark.parametrize("lane", LANES, ids=str)
def test_a_lane_says_what_status_says(console: Shown, lane: Lane) -> None:
    page = text_of(console.get(of(lane)).text)
    (status,) = collect(console.site, [console.site.lane(str(lane))]).lanes
    assert status.promise.state in {"held", "unproven", "broken"}
    for name, value in lane_fields(status).items():
        shown = "-" if value is None else {True: "yes", False: "no"}.get(value, str(value))  # type: ignore[call-overload]
        assert name in page
        assert name in CLOCKED or re.sub(r"\s+", " ", shown) in page, name
    for value in (status.promise.estimate, status.promise.low, status.promise.high, status.escalated_ratio):
        assert ratio_of(value) in page


def test_every_lane_is_on_the_first_page_with_its_promise_and_its_money(console: Shown) -> None:
    page = text_of(console.get().text)
    for status in collect(console.site, list(console.site.settings.lanes)).lanes:
        assert {status.lane, str(status.promise.state), str(status.champion)} <= set(page.split())
    assert page.count("saved, $") == len(LANES) + 2
    assert "fine-tuning 42% (stage 4 of 7)" in page


@pytest.mark.parametrize("lane", LANES, ids=str)
def test_history_has_every_move_version_and_cycle_the_newest_first(console: Shown, lane: Lane) -> None:
    html = console.get(of(lane, "/history")).text
    past = past_of(console.site, lane, 100)
    numbers = [int(number) for number in re.findall(r"move (\d+): ", text_of(html))]
    assert numbers == sorted((move.number for move in past.moves), reverse=True) == list(range(6, 0, -1))
    assert all(version.id in html for version in past.versions)
    assert len(re.findall("cycle of", html)) == len(past.cycles) == 4
    assert "live agreement was falling <b>fast</b>" in text_of(html.replace("&lt;b&gt;", "&lt;b&gt;"))
    assert "<b>fast" not in html


@pytest.mark.parametrize("lane", LANES, ids=str)
def test_a_version_has_a_page_and_an_unknown_one_is_told(console: Shown, lane: Lane) -> None:
    version = past_of(console.site, lane, 100).versions[-1]
    page = text_of(console.get(of(lane, f"/version/{version.id}")).text)
    assert time_of(version.created_s or 0.0) in page
    assert "topic: parcel courier delivery" in page
    for unknown in ("0" * 16, version.id[:4], "%2e%2e", "a%2fb"):
        assert console.get(of(lane, f"/version/{unknown}")).status_code == 404


@pytest.mark.parametrize("lane", LANES, ids=str)
def test_texts_are_shown_for_a_token_alone(console: Shown, token: str, lane: Lane) -> None:
    for page in ("/buffer?state=fresh", "/audits"):
        closed, opened = console.get(of(lane, page)).text, console.get(of(lane, page), token).text
        assert "blockquote" not in closed
        assert "role view" in closed
        assert "blockquote" in opened
        assert "160" in text_of(closed if "buffer" in page else opened), "counts are numbers, and numbers are shown"


@pytest.mark.parametrize("lane", LANES, ids=str)
def test_a_text_that_is_markup_is_shown_as_text(console: Shown, token: str, lane: Lane) -> None:
    html = console.get(of(lane, "/audits"), token).text
    assert HOSTILE in text_of(html)
    tags = tags_of(html)
    scripts = [attributes for tag, attributes in tags if tag == "script"]
    assert [str(one["src"]).startswith("/console/static/") for one in scripts] == [True, True]
    assert not {tag for tag, _ in tags} & {"img", "style", "iframe", "object", "base"}
    named = {name for _, attributes in tags for name in attributes}
    assert not {name for name in named if name.startswith("on")} | named & {"style", "srcdoc"}
    assert not [at for _, attributes in tags for at in attributes.values() if "javascript:" in str(at)]


def test_texts_are_redacted(console: Shown, token: str) -> None:
    html = console.get(of(SUPPORT, "/audits"), token).text
    assert "ada@example.com" not in html
    assert "my mail is <EMAIL" in unescape(html)


@pytest.mark.parametrize(
    ("lane", "student", "teacher"),
    [
        (SUPPORT, "login", "delivery"),
        (SHOP, r"1\. [a-z, ]+ 2\. [a-z, ]+ 3\. ", r"1\. [a-z, ]+ \(0\.\d+\)"),
        (DESK, r"Please call us tomorrow\.", r"I am sorry to hear that|\{\"tool\""),
    ],
    ids=str,
)
def test_what_audits_found_wrong_has_both_answers(
    console: Shown, token: str, lane: Lane, student: str, teacher: str
) -> None:
    page = text_of(console.get(of(lane, "/audits"), token).text)
    assert re.search(rf"student {student}", page)
    assert re.search(rf"teacher {teacher}", page)
    found = re.search(r"(\d+) of (\d+) questions that audits alone have put to the teacher, among all 160 kept", page)
    assert found is not None
    assert 0 < int(found[1]) < int(found[2]) <= 40
    assert page.count(" asked 1 time") == int(found[1])


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("?state=stale", "under another prompt"),
        ("?state=quarantined", "waiting"),
        ("?state=off_list", "complaint"),
        ("?label=refund", "refund"),
        ("?topic=parcel+courier+delivery", "parcel|courier|delivery"),
        ("", "in conflict"),
        ("?label=%3Cscript%3E", "label: <script>"),
    ],
)
def test_the_buffer_is_looked_through_by_label_state_and_topic(
    console: Shown, token: str, query: str, words: str
) -> None:
    html = console.get(of(SUPPORT, f"/buffer{query}"), token).text
    assert re.search(words, text_of(html))
    assert ("<li>\n<blockquote>" in html) is ("script" not in query)


def test_what_is_counted_is_what_is_there(console: Shown, redis_of: redis.Redis) -> None:
    section = console.site.lane(str(SUPPORT))
    found = looking.look(console.site, redis_of, section, [])
    (status,) = collect(console.site, [section]).lanes
    answers: Any = status.answers
    assert {state: n for state, n in found.of("state").items() if n} == {
        state: getattr(answers, state) for state in found.of("state")
    }
    assert sum(found.of("label").values()) == found.seen == answers.items == 160
    assert found.whole
    assert all(len(examples) <= looking.EACH for examples in found.examples.values())
    for examples in found.examples.values():
        assert [one.last_s for one in examples] == sorted((one.last_s for one in examples), reverse=True)


def test_a_large_buffer_is_looked_at_in_part_and_the_page_says_so(
    console: Shown, redis_of: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "MOST", 30)
    found = looking.look(console.site, redis_of, console.site.lane(str(SHOP)), [])
    assert (found.seen, found.whole) == (30, False)


def test_everything_is_read_in_threads_of_the_consoles_own(
    console: Shown, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    console.console.become(console.site)
    seen: dict[str, str] = {}

    def noted(where: object, name: str) -> None:
        real = getattr(where, name)

        def note(*given: Any) -> Any:
            seen[name] = threading.current_thread().name.partition("_")[0]
            return real(*given)

        monkeypatch.setattr(where, name, note)

    for where, name in ((reads, "collect"), (reads, "look"), (reads, "past_of"), (lanes, "evidence_of")):
        noted(where, name)
    for page in ("", "/history", "/buffer", "/audits"):
        assert console.get(of(DESK, page), token).status_code == 200
    assert seen == dict.fromkeys(("collect", "look", "past_of", "evidence_of"), "console")


def test_settings_that_were_read_again_are_shown(console: Shown) -> None:
    site = console.site
    sections = [
        section.model_copy(update={"budget": section.budget.model_copy(update={"calls_per_day": 77})})
        for section in site.settings.lanes
    ]
    assert "of 5,000 calls" in text_of(console.get(of(DESK)).text)
    try:
        console.console.become(Site(site.settings.model_copy(update={"lanes": tuple(sections)})))
        assert "of 77 calls" in text_of(console.get(of(DESK)).text)
    finally:
        console.console.become(site)


def test_while_redis_is_away_pages_say_so_and_show_what_files_know(console: Shown) -> None:
    settings = console.site.settings
    away = settings.model_copy(
        update={"redis": settings.redis.model_copy(update={"url": "unix:///nowhere/redis.sock"})}
    )
    try:
        console.console.become(Site(away))
        page = console.get(of(SUPPORT))
        assert page.status_code == 200
        assert "Unknown: Redis does not answer" in text_of(page.text)
        assert past_of(console.site, SUPPORT, 9).standing.champion in page.text  # type: ignore[operator]
        assert console.get(of(SUPPORT, "/history")).status_code == 200
        assert console.get(of(SUPPORT, "/audits")).status_code == 503
        assert "not available" in text_of(console.get().text)
    finally:
        console.console.become(console.site)


@pytest.fixture
def redis_of(console: Shown) -> Any:
    with console.site.redis_client() as client:
        yield client
