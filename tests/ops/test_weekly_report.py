"""The weekly report says what the books, the audits and the registry say, in three forms, and scores its forecasts."""

import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from ops.cli.app import app
from ops.report.collect import hardest
from ops.report.forecasts import forecasts, measured
from ops.report.forms import html, markdown
from ops.report.page import page_of
from ops.report.records import DayShown, Report
from store.event import Task, wall_clock_s
from store.money.deeds import Deeds
from store.money.reckon import Money, Prices, money_of
from store.tasks.tasks import TASKS, LaneTerms
from tests.ops.backups import call
from tests.ops.sites import LANE, publish
from tests.ops.stand import Stand, until
from tests.trainer import questions
from tests.trainer.chat import talks
from tests.trainer.rank import lists

LAST_S_OF_A_DAY = 60.0  # a test that began in them would end on another day


@pytest.fixture
def today() -> date:
    """The day it is, of which enough is left for a test."""
    until(lambda: -wall_clock_s() % 86_400 > LAST_S_OF_A_DAY)
    return datetime.fromtimestamp(wall_clock_s(), UTC).date()


def written(stand: Stand, day: date, deeds: Deeds) -> None:
    """What was done on a day, as the books keep it."""
    prefix = f"{{{LANE.use_case}}}:{LANE.tenant}:books:"
    number = (day - date(1970, 1, 1)).days
    stand.client.hsetnx(f"{prefix}ever", "since", str(number * 86_400))
    for name, count in msgspec.to_builtins(deeds).items():
        for book in ("ever", f"day:{number}"):
            if count:
                stand.client.hincrby(f"{prefix}{book}", name, count)


def of_a_week(stand: Stand, until: date, *, student: int = 70) -> None:
    """A week of traffic, each day a little different."""
    for back in reversed(range(7)):
        deeds = Deeds(
            student=student + back,
            teacher=30,
            calls=30,
            calls_nano_usd=30 * 2_000_000,
            audits=2,
            audits_nano_usd=4_000_000,
        )
        written(stand, until - timedelta(days=back), deeds)


def test_it_says_what_status_and_the_books_say(stand: Stand, tmp_path: Path, today: date) -> None:
    with stand.ingesting():
        stand.send(40)
        until(lambda: stand.counters.counted == 40)
    of_a_week(stand, today - timedelta(days=1))
    found = call("report", "--until", str(today), config=stand.path)
    status = call("status", config=stand.path, code=3)["lanes"][0]
    (lane,) = found["lanes"]
    assert lane["promise"] == status["promise"]
    assert lane["ever"] == status["money"]["start"]
    assert lane["champion"] == status["champion"]
    assert lane["money"]["student"] == sum(70 + back for back in range(6))  # the seventh day before is not among them
    assert lane["money"]["spent_usd"] == pytest.approx(6 * (30 * 0.002 + 0.004))
    assert lane["money"]["saved_usd"] == pytest.approx(lane["money"]["teacher_only_usd"] - lane["money"]["spent_usd"])
    assert [day["day"] for day in lane["days"]] == [str(today - timedelta(days=back)) for back in range(6, -1, -1)]
    day = datetime.fromtimestamp(max(item.last_asked_s for item in stand.buffer.items(LANE)), UTC).date()
    span = ("--since", str(day), "--until", str(day))
    ((refund,),) = (one["hard"] for one in call("report", *span, config=stand.path)["lanes"])
    assert (refund["label"], refund["items"], refund["escalated"]) == ("refund", 7, 32)
    assert refund["audited"] > 0
    assert all(re.fullmatch(r"question \d", one) for one in refund["examples"])
    assert lane["promise"]["audits"] is not None


def test_a_forecast_is_scored_by_the_next_report(stand: Stand, today: date) -> None:
    before = today - timedelta(days=8)
    of_a_week(stand, before)
    first = call("report", "--until", str(before), config=stand.path)["lanes"][0]
    assert first["scored"] == []
    by_name = {one["what"]: one for one in first["forecasts"]}
    assert by_name["questions"]["middle"] == pytest.approx(sum(100 + back for back in range(7)))
    assert by_name["questions"]["low"] < by_name["questions"]["middle"] < by_name["questions"]["high"]
    of_a_week(stand, today - timedelta(days=1), student=1000)
    second = call("report", config=stand.path)["lanes"][0]
    scored = {one["forecast"]["what"]: one for one in second["scored"]}
    assert scored["questions"]["forecast"] == by_name["questions"]
    assert scored["questions"]["came"] == sum(1030 + back for back in range(7))
    page = CliRunner().invoke(app, ["report", "-c", str(stand.path)]).output
    assert re.search(r"Of \d forecasts of earlier reports \d held what came", page)
    assert "| NO |" in page
    again = call("report", config=stand.path)["lanes"][0]
    assert again["scored"] == second["scored"], "the same report twice scores nothing twice"


def test_days_that_are_not_over_are_neither_kept_nor_forecast_from(stand: Stand, today: date) -> None:
    of_a_week(stand, today)
    lane = call("report", "--since", str(today - timedelta(days=2)), "--until", str(today), config=stand.path)["lanes"][
        0
    ]
    assert lane["forecasts"] == []
    assert any("not over" in note for note in lane["notes"])
    assert not (stand.site.settings.state_dir / "reports").exists()


def test_moves_versions_and_failures_of_the_days_are_told(stand: Stand, today: date) -> None:
    versions = publish(stand.path, b"c", created_s=wall_clock_s())
    call("pause", "--reason", "a holiday", config=stand.path)
    found = CliRunner().invoke(app, ["report", "--until", str(today), "-c", str(stand.path)])
    assert found.exit_code == 0, found.output
    assert versions[0] in found.output
    assert "a holiday" in found.output


@given(values=st.lists(st.integers(0, 10_000), min_size=3, max_size=14), seed=st.integers(0, 5))
def test_a_forecast_of_equal_days_is_exact_and_others_lie_around_the_mean(values: list[int], seed: int) -> None:
    rng = Random(seed)
    rng.shuffle(values)
    days = [
        DayShown(day=f"2026-01-{at + 1:02}", money=Money(since_s=0.0, student=value)) for at, value in enumerate(values)
    ]
    (asked, *_) = [one for one in forecasts(days) if one.what == "questions"]
    assert asked.middle == pytest.approx(sum(values))
    assert 0.0 <= asked.low <= asked.middle <= asked.high
    if len(set(values)) == 1:
        assert asked.low == pytest.approx(asked.high)


def test_intervals_hold_as_often_as_they_say() -> None:
    """Weeks of days that are independent and alike: four in five of the sums of the next lie inside."""
    rng, inside = Random(7), 0
    for _ in range(400):
        week = [max(0, round(rng.gauss(1000, 150))) for _ in range(14)]
        days = [DayShown(day=str(at), money=Money(since_s=0.0, student=value)) for at, value in enumerate(week[:7])]
        (asked, *_) = forecasts(days)
        inside += asked.low <= sum(week[7:]) <= asked.high
    assert 0.74 <= inside / 400 <= 0.86


@pytest.mark.parametrize("task", ["classify", "rank", "chat"])
def test_every_task_has_hard_questions_and_their_words(task: Task) -> None:
    made: dict[str, Any] = {"rank": lambda: lists.items(30), "chat": lambda: talks.items(30, hard=0.5)}
    items = made[task]() if task in made else _classified()
    found = hardest(items, TASKS[task](LaneTerms()))
    assert found
    assert sum(one.items for one in found) == len(items)
    assert all(one.missed <= one.audited <= one.items for one in found)
    assert all(one.examples and all(one.examples) for one in found)


def _classified() -> list[Any]:
    return list(questions.items(8))


def test_what_came_from_outside_means_nothing_in_the_page(stand: Stand, tmp_path: Path, today: date) -> None:
    evil = "<script>alert(1)</script> | **x** [a](b)"
    call("pause", "--reason", evil, config=stand.path)
    shown = CliRunner().invoke(app, ["report", "--until", str(today), "-c", str(stand.path)]).output
    assert r"\<script\>" in shown
    assert "[a](b)" not in shown
    out = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["report", "--until", str(today), "--out", str(out), "-c", str(stand.path)])
    assert done.exit_code == 0, done.output
    text = out.read_text("utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert not re.search(r"(src|href)=|https?://|@import|url\(", text), "it asks nothing of the network"


def test_redis_away_leaves_out_what_it_alone_knows(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_REDIS__URL", "unix:///nowhere/redis.sock")
    found = call("report", config=stand.path)
    (lane,) = found["lanes"]
    assert lane["money"] is None
    assert lane["champion"] is not None
    assert found["unavailable"]
    page = page_of(msgspec.convert(found, Report))
    assert "cannot be read" in page.title
    for form in (html, markdown):
        assert "Redis does not answer" in form(page)


def test_wrong_days_and_names_are_refused(stand: Stand, tmp_path: Path) -> None:
    assert "is no day" in call("report", "--since", "yesterday", config=stand.path, code=2)
    assert "is after" in call("report", "--since", "2026-02-02", "--until", "2026-02-01", config=stand.path, code=2)
    assert ".html or .md" in call("report", "--out", tmp_path / "x.pdf", config=stand.path, code=2)
    assert "No such file" in call("report", "--out", tmp_path / "no" / "x.md", config=stand.path, code=2)


def test_what_is_forecast_of_money_without_a_price_lacks_the_saving() -> None:
    money = money_of(Deeds(student=3), Deeds(student=3), Prices(), 0.0)
    assert "saved, $" not in measured(money)
