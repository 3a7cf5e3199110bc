"""A user's own log, as it comes: columns are found or named, what cannot be used is said, and nothing is guessed."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ops.backtest.log import Log
from ops.backtest.tasks.texts import ColumnNames, read_log
from store.answers.rules import Rules
from store.errors import SettingsError
from store.event import MAX_EVENT_BYTES

FOUND = ColumnNames()
DAY_S = 86_400.0


def written(folder: Path, lines: Sequence[str | bytes | dict[str, Any]]) -> Path:
    path = folder / "log.jsonl"
    texts = [json.dumps(line) if isinstance(line, dict) else line for line in lines]
    path.write_bytes(b"".join((text.encode() if isinstance(text, str) else text) + b"\n" for text in texts))
    return path


def read(
    folder: Path,
    lines: Sequence[str | bytes | dict[str, Any]],
    columns: ColumnNames = FOUND,
    days: float = 1.0,
) -> Log:
    return read_log(written(folder, lines), columns, days)


def rows(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"text": f"question {row}", "label": "ab"[row % 2], **more} for row in range(count)]


def test_columns_are_found_by_their_usual_names(tmp_path: Path) -> None:
    log = read(
        tmp_path,
        [
            {"uuid": 7, "question": "one", "teacher": {"label": "a"}, "gold": "x", "created_at": 1_800_000_000},
            {"uuid": 8, "question": "two", "teacher": {"label": "b"}, "gold": "y", "created_at": 1_800_000_060.5},
        ],
    )
    assert (log.texts, log.labels, log.gold, log.ids) == (["one", "two"], ["a", "b"], ["x", "y"], ["7", "8"])
    assert log.times_s.tolist() == [1_800_000_000, 1_800_000_060.5]
    assert (log.timed, log.has_gold, log.label_set, log.rows, log.skipped) == (True, True, ("a", "b"), 2, 0)


def test_a_row_that_cannot_be_redacted_is_skipped_and_named(tmp_path: Path) -> None:
    log = read(tmp_path, [*rows(4), {"text": "01001 " * 100_000, "label": "a"}])
    assert log.rows == 4
    assert [(row.line, "send the text in parts" in row.why) for row in log.bad] == [(5, True)]


def test_columns_are_named_and_a_dot_goes_into_an_object(tmp_path: Path) -> None:
    lines = [
        {
            "text": "not this",
            "in": {"q": f"q{row}"},
            "out": {"a": {"l": "ab"[row]}},
            "me": {"id": f"n{row}"},
            "t.s": 1_800_000_050 - row,
        }
        for row in range(2)
    ]
    columns = ColumnNames(text="in.q", label="out.a.l", gold="text", id="me.id", time="t.s")
    log = read(tmp_path, lines, columns)
    assert (log.texts, log.labels, log.ids) == (["q1", "q0"], ["b", "a"], ["n1", "n0"])
    assert log.gold == ["not this", "not this"]
    assert log.times_s.tolist() == [1_800_000_049, 1_800_000_050]


@pytest.mark.parametrize("flag", ["--text", "--label", "--gold", "--id", "--time"])
def test_a_column_that_is_nowhere_is_refused_by_its_flag(tmp_path: Path, flag: str) -> None:
    columns = replace(FOUND, **{flag.removeprefix("--"): "nowhere.to.be.seen"})
    with pytest.raises(SettingsError, match=rf"{flag} nowhere\.to\.be\.seen"):
        read(tmp_path, rows(4, id="i", time=5, gold="g"), columns)


@pytest.mark.parametrize(
    ("line", "flag"), [({"words": "w", "label": "a"}, "--text"), ({"text": "w", "said": "a"}, "--label")]
)
def test_a_column_that_is_not_found_is_asked_for_by_its_flag(tmp_path: Path, line: dict[str, str], flag: str) -> None:
    with pytest.raises(SettingsError, match=rf"name the column with {flag} \(found: .*(said|words)"):
        read(tmp_path, [line] * 3)


def test_a_column_of_labels_without_one_is_refused_in_words_about_labels(tmp_path: Path) -> None:
    lines = [{"text": "t", "said": said} for said in (None, 0.5, ["a"])]
    message = r"--label said: no row has a label \(a text, a whole number, true or false\) there \(found: said, text\)"
    with pytest.raises(SettingsError, match=message):
        read(tmp_path, lines, ColumnNames(label="said"))
    with pytest.raises(SettingsError, match="--text said: no row has a text there"):
        read(tmp_path, lines, ColumnNames(text="said", label="text"))


def test_a_log_whose_answers_begin_late_is_read(tmp_path: Path) -> None:
    silent = [{**row, "label": nothing} for row, nothing in zip(rows(150), [None, "", " "] * 50, strict=True)]
    for lines in ([*silent, *rows(4)], [*({"text": row["text"]} for row in silent), *rows(4, gold="x")]):
        log = read(tmp_path, lines)
        assert log.labels == [*[None] * 150, "a", "b", "a", "b"]
        assert log.has_gold == ("gold" in lines[-1])
    named = read(tmp_path, [*({"said": None, **row} for row in silent), *rows(4, said="c"), *rows(1, said="d")],
                 ColumnNames(label="said"))  # fmt: skip
    assert named.label_set == ("c", "d")


def test_a_column_is_found_by_what_is_there_in_the_whole_file(tmp_path: Path) -> None:
    lines = [{"text": f"q{row}", "label": {"of": 1}, "answer": "yes", "intent": f"i{row % 3}"} for row in range(9)]
    assert read(tmp_path, [*lines[:4], {"text": "q", "label": "a", "intent": "i1"}, *lines[4:]]).label_set == (
        "i0", "i1", "i2",
    )  # fmt: skip
    rare = [
        {"text": "a note"},
        {"text": "another"},
        *({"query": f"q{row}", "label": f"l{row % 2}"} for row in range(9)),
    ]
    assert read(tmp_path, rare).texts[0] == "q0"


def test_a_number_is_no_text(tmp_path: Path) -> None:
    log = read(tmp_path, [{"text": row, "question": f"q{row}", "label": row} for row in range(3)])
    assert log.texts == ["q0", "q1", "q2"]
    with pytest.raises(SettingsError, match="--text text: no row has a text there"):
        read(tmp_path, [{"text": 5, "label": row} for row in range(3)], ColumnNames(text="text"))


@pytest.mark.parametrize("name", ["label", "teacher", "said"])
@pytest.mark.parametrize(
    ("given", "labels"),
    [
        (["0", "1", "2"], ["0", "1", "2"]),
        (["-3", "4.0", "-0.0"], ["-3", "4", "0"]),
        (["true", "false", "1"], ["true", "false", "1"]),
        (["4", '" 4 "', "5"], ["4", "4", "5"]),
        (["99999999999999999999", "9007199254740992.0", "0"], ["99999999999999999999", None, "0"]),
    ],
)
def test_whole_numbers_and_booleans_are_labels_as_json_spells_them(
    tmp_path: Path, name: str, given: list[str], labels: list[str | None]
) -> None:
    lines = [f'{{"text": "t", "{name}": {value}, "gold": {value}}}' for value in given]
    log = read(tmp_path, lines, ColumnNames(label=name if name == "said" else None))
    assert (log.labels, log.gold) == (labels, labels)


def test_a_named_column_may_come_late(tmp_path: Path) -> None:
    lines = [*rows(150), {"text": "late", "label": "a", "truth?": "b", "key": "k", "at": "2026-01-01T00:00:00Z"}]
    log = read(tmp_path, lines, ColumnNames(gold="truth?", id="key", time="at"))
    assert log.gold == [*[None] * 150, "b"]
    assert log.ids[-1] == "k"
    assert not log.timed


@pytest.mark.parametrize("moment", ["yesterday", "2026-01-01T00:00:00", 1e20, 46_023.5, 20_260_101, True])
def test_a_named_time_that_cannot_be_read_is_refused_not_made_up(tmp_path: Path, moment: Any) -> None:
    with pytest.raises(SettingsError, match=r"--time when: .*ISO 8601"):
        read(tmp_path, rows(3, when=moment), ColumnNames(time="when"))


def test_the_teachers_answer_is_not_its_own_truth(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--gold label"):
        read(tmp_path, rows(3), ColumnNames(gold="label"))
    lines = [{"text": "t", "gold": "a"}, {"text": "u", "gold": "b"}]
    assert not read(tmp_path, lines, ColumnNames(label="gold")).has_gold


def test_bad_rows_are_skipped_and_named_by_line_and_nothing_of_them_is_quoted(tmp_path: Path) -> None:
    card = "4111 1111 1111 1111"
    log = read(
        tmp_path,
        [
            *rows(2),
            "",
            f'{{"text": "{card}", "label"',
            f'["{card}"]',
            {"text": "  ", "label": "a"},
            {"label": card},
            b'{"text": "\xff", "label": "a"}',
            '{"text": "\\ud800", "label": "a"}',
            json.dumps({"text": "x" * MAX_EVENT_BYTES, "label": "a"}),
            "   ",
            *rows(2),
        ],
    )
    assert [row.line for row in log.bad] == [4, 5, 6, 7, 8, 9, 10]
    assert (log.skipped, log.rows) == (7, 4)
    assert log.ids == ["line-1", "line-2", "line-12", "line-13"]
    assert not any(card[:4] in row.why for row in log.bad)
    assert all(row.why for row in log.bad)


@pytest.mark.parametrize("answer", [None, "", "  ", 3.5, 1e300, ["a"], {"label": "a"}])
def test_a_row_without_a_usable_answer_is_kept_as_unusable(tmp_path: Path, answer: Any) -> None:
    log = read(tmp_path, [*rows(4), {"text": "no answer", "label": answer}, {"text": "no column"}])
    assert log.labels[-2:] == [None, None]
    assert (log.unusable, log.rows, log.label_set) == (2, 6, ("a", "b"))


def test_answers_and_true_labels_are_trimmed_and_texts_are_canonical(tmp_path: Path) -> None:
    log = read(tmp_path, [{"text": " a\t b\n", "label": " x ", "gold": "y "}, *rows(1, gold=" ")])
    assert (log.texts[0], log.labels[0], log.gold) == ("a b", "x", ["y", None])


def test_rows_are_sorted_by_their_times_and_equal_ones_keep_their_order(tmp_path: Path) -> None:
    moments = ["2026-03-01T12:00:00+02:00", "2026-03-01T11:00:00+01:00", "2026-03-01T09:00:00Z", "2026-03-04T10:00:00Z"]
    log = read(tmp_path, [{**row, "timestamp": moment} for row, moment in zip(rows(4), moments, strict=True)])
    assert log.texts == ["question 2", "question 0", "question 1", "question 3"]
    assert (log.times_s[1:] >= log.times_s[:-1]).all()
    assert log.days == pytest.approx(3 + 1 / 24)


@given(count=st.integers(2, 40), days=st.floats(0.01, 60))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_without_a_time_are_spread_evenly_over_the_days(tmp_path: Path, count: int, days: float) -> None:
    log = read(tmp_path, rows(count), days=days)
    assert not log.timed
    gaps = log.times_s[1:] - log.times_s[:-1]
    assert gaps == pytest.approx(days * DAY_S / count, rel=1e-6)
    assert log.times_s[-1] - log.times_s[0] < days * DAY_S
    assert log.texts == [f"question {row}" for row in range(count)]


def test_one_row_without_a_time_spreads_all_and_says_that_the_times_are_not_the_logs(tmp_path: Path) -> None:
    log = read(tmp_path, [*rows(3, time=1_800_000_000), *rows(1)], days=2.0)
    assert not log.timed
    assert (log.times_s[1:] - log.times_s[:-1]).tolist() == [DAY_S / 2] * 3


def test_a_log_without_times_has_nothing_to_say_of_them(tmp_path: Path) -> None:
    assert read(tmp_path, rows(3)).untimed_why is None
    assert read(tmp_path, [{**row, "time": 1_800_000_000 + n} for n, row in enumerate(rows(3))]).untimed_why is None
    assert read(tmp_path, rows(3, time=None, created=" ")).untimed_why is None


@pytest.mark.parametrize(
    "moment", ["2026-01-01T00:00:00", "noon", 0, 1e20, 46_023.5, 20_260_101, True, [1_800_000_000]]
)
def test_times_that_cannot_be_read_are_told_with_column_and_line(tmp_path: Path, moment: Any) -> None:
    lines = [*rows(1), {"label": "no text"}, *rows(1, created_at=1_800_000_000), *rows(2, created_at=moment)]
    log = read(tmp_path, lines)
    assert not log.timed
    assert log.untimed_why is not None
    assert log.untimed_why.startswith("line 4: what is under created_at is no time that can be read (Unix seconds, ")
    assert log.untimed_why.endswith("its rows are spread evenly over --days")
    assert "noon" not in log.untimed_why


def test_a_row_without_a_time_among_others_is_told(tmp_path: Path) -> None:
    log = read(tmp_path, [*rows(2, t=1_800_000_000), *rows(2, time=1_800_000_000)], ColumnNames(time="t"))
    assert not log.timed
    assert (log.untimed_why or "").startswith("line 3: no time, though other rows have one under t: ")


def test_milliseconds_are_read_as_milliseconds(tmp_path: Path) -> None:
    moments = [1_800_000_000_500, 1_800_000_000, 99_999_999_999_999]
    log = read(tmp_path, [{**row, "time": moment} for row, moment in zip(rows(2), moments, strict=False)])
    assert log.timed
    assert log.times_s.tolist() == [1_800_000_000, 1_800_000_000.5]
    assert (
        read(tmp_path, rows(1, time=moments[2]) + rows(1, label="b", time=99_999_999_999)).times_s[-1]
        == 99_999_999_999.999
    )
    assert read(tmp_path, [{**row, "time": 1e11 + n} for n, row in enumerate(rows(2))]).times_s.tolist() == [
        1e8,
        1e8 + 1e-3,
    ]
    assert read(tmp_path, [{**row, "time": 9.9e10 + n} for n, row in enumerate(rows(2))]).times_s[0] == 9.9e10


@pytest.mark.parametrize(
    ("step_s", "days", "timed", "per_day"),
    [
        (0.0, None, False, False),
        (0.0, 22.0, False, True),
        (60.0, None, True, False),
        (60.0, 22.0, True, True),
        (DAY_S, None, True, True),
    ],
)
def test_a_day_is_spoken_of_where_the_times_cover_one(
    tmp_path: Path, step_s: float, days: float | None, *, timed: bool, per_day: bool
) -> None:
    lines = [{**row, "time": 1_800_000_000 + n * step_s} for n, row in enumerate(rows(4))]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    log = read_log(path, ColumnNames(), days)
    assert (log.timed, log.per_day) == (timed, per_day)
    assert (log.untimed_why is not None) == (not timed)
    assert log.days == pytest.approx(3.0 if step_s == DAY_S else 16.5 if not timed and days else 1.0)


def test_a_log_of_more_than_ten_years_is_refused_with_its_earliest_line(tmp_path: Path) -> None:
    first, second = rows(2, time=1_800_000_000)
    assert read(tmp_path, [{**second, "time": 1_800_000_000 + 3660 * DAY_S}, first]).days == 3660
    with pytest.raises(SettingsError, match=r"span 19,676 days, .*: line 4 is the earliest.*: correct time there, or"):
        read(tmp_path, [*rows(3, time=1_800_000_000), *rows(2, time=100_000_000)])


@pytest.mark.parametrize("days", [0.0, -1.0, float("nan"), float("inf"), 3660.1, 1e12])
def test_days_that_cannot_be_are_refused(tmp_path: Path, days: float) -> None:
    with pytest.raises(SettingsError, match="--days"):
        read(tmp_path, rows(3), days=days)


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    first, *rest = rows(3)
    log = read(tmp_path, [b"\xef\xbb\xbf" + json.dumps(first).encode(), *rest])
    assert (log.rows, log.skipped) == (3, 0)


def test_a_last_line_without_an_end_is_a_row(tmp_path: Path) -> None:
    path = written(tmp_path, rows(3))
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert read_log(path, FOUND, 1.0).rows == 3


def test_ids_may_repeat_and_each_row_stays(tmp_path: Path) -> None:
    log = read(tmp_path, [*rows(2, id="same"), *rows(1, id=0), *rows(1, id=[1])])
    assert log.ids == ["same", "same", "0", "line-4"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        ('{"text": "é", "label": "a"}\n'.encode("utf-16"), "fewer than two labels"),
        (b'{"text": "t", "label": "a"}\n' * 3, "--label label: .* fewer than two labels"),
        (
            b'{"text": "t", "label": "a"}\n' * 3 + b'{"text": "t", "label": null}\n',
            "--label label: .* fewer than two labels",
        ),
        (b'{"text": " ", "label": "a"}\n' * 3, r"no text under any usual name: .* --text \(found: label, text\)"),
        (b"[1, 2, 3]\n", "no JSON objects"),
    ],
    ids=["empty", "blank", "UTF-16 and one label", "one label", "one label and none", "blank texts", "no objects"],
)
def test_a_log_that_cannot_be_replayed_is_refused_with_what_to_do(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=message):
        read_log(path, FOUND, 1.0)


def test_a_file_that_is_not_there_or_is_a_folder_is_refused_by_name(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(SettingsError, match=str(path)):
            read_log(path, FOUND, 1.0)


def test_fifty_thousand_rows_are_read_in_seconds(tmp_path: Path) -> None:
    lines = [
        {"id": row, "text": f"question {row} " + "word " * 20, "teacher": {"label": f"l{row % 77}"}, "gold": "l1"}
        for row in range(50_000)
    ]
    path = written(tmp_path, lines)
    started_s = time.process_time()
    log = read_log(path, FOUND, 7.0)
    assert time.process_time() - started_s < 10.0
    assert (log.rows, len(log.label_set), log.skipped) == (50_000, 77, 0)


def test_a_log_with_labels_of_an_earlier_list_is_replayed_as_they_are_read_today(tmp_path: Path) -> None:
    said = ["a", "old", "fax", "b", "pigeon"]
    lines = [{"text": f"t{n}", "label": label} for n, label in enumerate(said)]
    path = written(tmp_path, lines)
    log = read_log(path, FOUND, None, ("a", "b"), Rules(labels={"old": "b", "fax": None}))
    assert log.labels == ["a", "b", None, "b", None]
    assert log.off_list == 2
