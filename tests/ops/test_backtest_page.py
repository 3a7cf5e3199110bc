"""The page: the answer first, then what it rests on; nothing from anywhere else."""

import re
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from msgspec.structs import replace

from ops.backtest.recommend import settings_toml
from ops.backtest.records import BacktestPrices
from ops.backtest.report.charts import calls_over_time, curve, prices
from ops.backtest.report.page import page, write_page
from tests.ops.backtests import backtest, interval
from tests.ops.pages import assert_offline, assert_well_formed, heights

FREE = BacktestPrices(usd_per_call=0.0, usd_per_training_hour=0.05)
CASES: list[dict[str, Any]] = [
    {},
    {"gold": False},
    {"prices": FREE},
    {"budgets": (200,), "seeds": 1},
    {"target": 0.8, "binds_below": 200},
]
NAMES = ["whole", "no true labels", "no prices", "one run", "a promise"]


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_the_page_is_well_formed_and_asks_nothing_of_the_network(case: dict[str, Any], tmp_path: Path) -> None:
    html = page(backtest(tmp_path, **case))
    assert_well_formed(html)
    assert_offline(html)
    assert "prefers-color-scheme:dark" in html


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_every_curve_stays_inside_its_frame(case: dict[str, Any], tmp_path: Path) -> None:
    found = backtest(tmp_path, **case)
    charts = [(curve(found), 400), (calls_over_time(found.runs[0], has_gold=found.has_gold), 280)]
    for chart, height in [*charts, *([(prices(found), 220)] if found.steps else [])]:
        places = heights(chart.svg())
        assert places
        assert all(0 <= place <= height for place in places)


def test_the_first_sentence_is_what_is_saved_and_what_it_costs(tmp_path: Path) -> None:
    html = page(backtest(tmp_path))
    title = re.search(r"<h1>(.+?)</h1>", html)
    assert title is not None
    assert "would save $0.55 of $1.00 a day, at 77.8% accuracy" in title.group(1)
    assert "below the teacher alone" in title.group(1)
    assert html.index("<h1>") < html.index("<h2>")


def test_a_manager_finds_cost_break_even_and_the_price_of_one_more_dollar(tmp_path: Path) -> None:
    dear = page(backtest(tmp_path, prices=BacktestPrices(usd_per_call=0.02, usd_per_training_hour=0.05)))
    assert "What one more dollar a day buys" in dear
    assert re.search(r"From the recommended setting on, one more dollar a day buys \+\d+\.\d \[", dear)
    assert re.search(r"one dollar a day less costs \+\d+\.\d \[", dear)
    html = page(backtest(tmp_path))  # a dollar is all that the teacher costs: its price would be none that was tried
    assert "What $0.1 more a day buys" in html
    assert re.search(r"From the recommended setting on, \$0\.1 more a day buys \+\d+\.\d \[", html)
    assert re.search(r"\$0\.1 a day less costs \+\d+\.\d \[", html)
    assert "$0.05 of processor time" in html
    assert "training has paid for itself" in html
    assert "less than an hour" in html


def test_every_budget_stands_in_the_table_and_the_recommended_one_is_marked(tmp_path: Path) -> None:
    found = backtest(tmp_path)
    html = page(found)
    assert all(f"{point.budget:,}" in html for point in found.points)
    assert "<strong>450</strong>" in html
    assert "<strong>200</strong>" not in html


def test_without_true_labels_nothing_is_called_accuracy(tmp_path: Path) -> None:
    html = page(backtest(tmp_path, gold=False))
    assert "agreement with the teacher" in html
    assert "accuracy" not in html.lower()


def test_without_prices_nothing_is_told_in_dollars(tmp_path: Path) -> None:
    html = page(backtest(tmp_path, prices=FREE))
    assert "$" not in html
    assert "give --usd-per-call" in html
    assert "What 100 more calls buy<" in html


def test_a_promise_says_for_how_long_it_was_suspended(tmp_path: Path) -> None:
    html = page(backtest(tmp_path, target=0.8, binds_below=450))
    assert "17.5%, 2:55:00" in html
    assert "never" in html
    assert "A budget without a target promises a bill" not in html
    assert "A budget without a target promises a bill" in page(backtest(tmp_path))


def test_questions_that_nobody_would_answer_stand_at_the_top_and_in_the_table(tmp_path: Path) -> None:
    found = backtest(tmp_path, target=0.8)
    assert "no answer</th>" not in page(found)
    html = page(replace(found, points=[replace(one, unanswered_ratio=0.123) for one in found.points]))
    assert re.search(r"12\.3%.{0,60}of the questions nobody would answer", html)
    assert re.search(r"<th[^>]*>no answer</th>", html)
    assert html.count("12.3%</") == len(found.points) + 1


def test_what_came_from_outside_is_escaped(tmp_path: Path) -> None:
    found = replace(backtest(tmp_path), log="<b>log</b>.jsonl")
    html = page(found)
    assert "late &lt;parcel&gt;" in html
    assert "<parcel>" not in html
    assert "<b>log" not in html


def test_a_backtest_that_was_stopped_says_so_at_the_top(tmp_path: Path) -> None:
    html = page(backtest(tmp_path, complete=False))
    assert html.index("ended before every run had") < html.index("<h2>")
    assert "ended before every run had" not in page(backtest(tmp_path))


def test_shares_of_topics_carry_their_intervals(tmp_path: Path) -> None:
    html = page(replace(backtest(tmp_path), hard_topics=[]))
    assert "None was found" in html
    assert "60% [51, 68]" in page(backtest(tmp_path))


def test_the_file_is_utf_8_and_a_surely_better_student_is_above(tmp_path: Path) -> None:
    found = backtest(tmp_path)
    better = [replace(point, versus_teacher=interval(0.03)) for point in found.points]
    write_page(replace(found, points=better, log="größe.jsonl"), tmp_path / "report.html")
    told = (tmp_path / "report.html").read_text("utf-8")
    assert "größe" in told
    assert "3.0 points above the teacher alone" in told


def test_nothing_is_told_for_a_day_where_nobody_knows_how_long_the_log_is(tmp_path: Path) -> None:
    known = backtest(tmp_path)
    found = structs.replace(known, per_day=False, untimed_why="a time has no zone (line 4)")
    html = page(found)
    assert "would save $0.55 of $1.00 over the log, at 77.8% accuracy" in html
    assert "A time has no zone (line 4)." in html
    assert "Nothing is told for a day" in html
    told = re.sub(r"Nothing is told for a day|A budget is one sum .*?24 hours\.", "", html, flags=re.DOTALL)
    assert not re.search(r"\ba (day|year)\b", told)
    assert "To be read first." not in page(known)
    lines = settings_toml(found, found.runs[0].ask, "minilm").splitlines()
    assert not any(line.startswith(("calls_per_day", "rows_per_day")) for line in lines)
    assert any(line.startswith("# calls_per_day = 0.45 of the questions") for line in lines)


def test_labels_in_many_spellings_stand_out_and_a_few_skipped_rows_do_not(tmp_path: Path) -> None:
    found = structs.replace(
        backtest(tmp_path), labels=7, spellings=28, off_list=3, skipped=8, bad=[{"line": 2, "why": "no text in text"}]
    )
    (box,) = re.findall(r'<div class="note">(.*?)</div>', page(found), re.DOTALL)
    assert "28 spellings of 7 labels" in box
    assert "3 of 1,000 answers are none of the lane&#x27;s labels" in box
    assert "skipped" not in box
    assert "7 labels in 28 spellings" in page(found)
    assert "8 rows of the log were skipped, the first is line 2: no text in text." in page(found)
    many = structs.replace(found, skipped=200)
    assert "200 rows of the log were skipped" in "".join(
        re.findall(r'<div class="note">.*?</div>', page(many), re.DOTALL)
    )
