"""A log that the user already has becomes escalations, each row once however often it is imported."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from ops.backtest.tasks.texts import ColumnNames, read_log
from ops.imports.importer import (
    ImportLane,
    await_applied,
    publish_rows,
    report,
    to_event,
)
from ops.readers.classify import TextRow, read_rows
from ops.readers.columns import Columns, find_columns
from ops.readers.files import BadRow
from store.answers.rules import Rules
from store.buffer.ledger import LogSlot
from store.errors import LogUnavailableError, SettingsError
from store.event import ClassifyEscalation, LabelAnswer, Lane, decode
from store.secrets import DataSecret, item_id
from store.tasks.classify import ClassifyRules
from stream.log import topic_of
from stream.memory import MemoryLog

LANE = Lane("acme", "support")
SECRET = DataSecret(bytes(32))
LABELS = frozenset({"refund", "cancel"})
INTO = ImportLane(
    lane=LANE,
    rules=ClassifyRules(),
    lane_key=SECRET.lane_key(LANE),
    redaction_key=SECRET.redaction_key(LANE),
    model="big",
    prompt_version="p1",
)


def write(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def rows_of(path: Path, columns: Columns | None = None) -> list[TextRow | BadRow]:
    return list(read_rows(path, columns or Columns(text="text", label="label"), LABELS))


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"text": "a", "label": "refund"}, Columns(text="text", label="label")),
        (
            {"id": 1, "text": "a", "teacher": {"label": "refund", "model": "m"}, "gold": "x"},
            Columns(text="text", label="teacher.label"),
        ),
        ({"query": "a", "answer": "refund"}, Columns(text="query", label="answer")),
        ({"input": "a", "teacher.label": "refund"}, Columns(text="input", label="teacher.label")),
    ],
)
def test_columns_are_found(tmp_path: Path, row: dict[str, Any], columns: Columns) -> None:
    path = write(tmp_path / "log.jsonl", [row] * 3)
    assert find_columns(path, text=None, label=None) == columns
    assert [type(found) for found in rows_of(path, columns)] == [TextRow] * 3


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "log.jsonl", [{"text": "no", "said": {"by": "a"}, "label": "no", "intent": "refund"}])
    assert find_columns(path, text="said.by", label="intent") == Columns(text="said.by", label="intent")


def test_columns_that_cannot_be_told_name_the_flag_and_what_there_is(tmp_path: Path) -> None:
    path = write(tmp_path / "log.jsonl", [{"text": "a", "outcome": "refund"}])
    with pytest.raises(SettingsError, match=r"--label.*outcome, text"):
        find_columns(path, text=None, label=None)


@pytest.mark.parametrize(("flag", "text", "label"), [("--text", "txet", None), ("--label", None, "said.by")])
def test_a_named_column_that_no_row_has_is_a_settings_error(
    tmp_path: Path, flag: str, text: str | None, label: str | None
) -> None:
    path = write(tmp_path / "log.jsonl", [{"text": "a", "label": "refund", "said": {"to": "b"}}])
    with pytest.raises(SettingsError, match=flag):
        find_columns(path, text=text, label=label)


def test_a_label_column_without_a_label_is_refused_in_words_about_labels(tmp_path: Path) -> None:
    path = write(tmp_path / "log.jsonl", [{"text": "a", "label": "refund", "said": {"to": "b"}}])
    with pytest.raises(SettingsError, match="--label said: no row has a label"):
        find_columns(path, text=None, label="said")


def test_labels_may_begin_late(tmp_path: Path) -> None:
    path = write(tmp_path / "log.jsonl", [*[{"text": "a", "label": None}] * 150, {"text": "b", "label": "refund"}])
    for label in (None, "label"):
        assert find_columns(path, text=None, label=label) == Columns(text="text", label="label")


def test_labels_are_read_as_a_backtest_reads_them(tmp_path: Path) -> None:
    said = [0, 4.0, True, False, " 1 ", 2.5, [4], None]
    path = write(tmp_path / "log.jsonl", [{"text": f"q{place}", "label": label} for place, label in enumerate(said)])
    log = read_log(path, ColumnNames(), 1.0)
    assert log.labels == ["0", "4", "true", "false", "1", None, None, None]
    columns = find_columns(path, text=None, label=None)
    found = [row for row in read_rows(path, columns, frozenset(log.label_set)) if isinstance(row, TextRow)]
    assert [row.label for row in found] == [label for label in log.labels if label is not None]
    assert [row.label for row in read_rows(path, columns, frozenset({"0", "4"})) if isinstance(row, TextRow)] == [
        "0",
        "4",
    ]
    assert isinstance(to_event(found[0], INTO, 5.0).teacher, LabelAnswer)


def test_a_missing_file_is_a_settings_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"gone\.jsonl"):
        find_columns(tmp_path / "gone.jsonl", text=None, label=None)


def test_bad_rows_are_named_by_line_and_skipped_without_being_quoted(tmp_path: Path) -> None:
    good = {"text": "a", "label": "refund"}
    bad = [
        "{not json\n",
        "[1]\n",
        {"label": "refund"},
        {"text": " ", "label": "refund"},
        {"text": "a", "label": "secret-word"},
    ]
    path = write(tmp_path / "log.jsonl", [good, "\n", *bad, good, "x" * (1 << 20) + "y\n", good])
    found = rows_of(path)
    assert [row.line for row in found if isinstance(row, TextRow)] == [1, 8, 10]
    assert [row.line for row in found if isinstance(row, BadRow)] == [3, 4, 5, 6, 7, 9]
    assert not any("secret" in row.why for row in found if isinstance(row, BadRow))


def test_importing_twice_or_a_longer_copy_gives_the_same_event_ids(tmp_path: Path) -> None:
    rows: list[Any] = [{"text": f"q{n % 3}", "label": "refund"} for n in range(9)]
    rows += [{"id": n, "text": "same", "label": "refund"} for n in range(4)]
    ids = [to_event(row, INTO, 5.0).id for row in rows_of(write(tmp_path / "a", rows)) if isinstance(row, TextRow)]
    longer = rows_of(write(tmp_path / "b", [*rows, {"text": "q0", "label": "refund"}]))
    again = [to_event(row, INTO, 99.0).id for row in longer if isinstance(row, TextRow)]
    assert len(set(ids)) == 13
    assert again[:13] == ids
    assert len(set(again)) == 14


def test_events_are_eligible_cold_and_redacted_and_keyed_by_their_item(tmp_path: Path) -> None:
    path = write(
        tmp_path / "log",
        [{"text": "mail joe@example.org", "label": "refund", "time": "2026-01-02T03:04:05Z"}, {"text": "b"}],
    )
    log = MemoryLog()
    log.ensure(topic_of(LANE.use_case), 2)
    looked: list[int] = []
    published, bad = publish_rows(
        iter(rows_of(path)), INTO, log, undated_s=7.0, oldest_s=0.0, seen=lambda: looked.append(1)
    )
    assert (published, [row.line for row in bad], len(looked)) == (1, [2], 2)
    records = [r for slot in log.slots(topic_of(LANE.use_case)) for r in log.read(slot, *log.bounds(slot))]
    event = decode(records[0].value)
    assert isinstance(event, ClassifyEscalation)
    assert "joe" not in event.input.text
    assert event.eligible
    assert event.student is None
    assert (event.escalation.reason, event.escalation.propensity) == ("cold", 1.0)
    assert event.time.isoformat() == "2026-01-02T03:04:05+00:00"
    assert records[0].key == item_id(INTO.lane_key, ClassifyRules(), event.input).encode()


def test_a_row_that_cannot_be_redacted_is_a_bad_row(tmp_path: Path, hard_text: str) -> None:
    path = write(
        tmp_path / "log.jsonl",
        [{"text": hard_text, "label": "refund"}, {"text": "fine", "label": "refund"}],
    )
    log = MemoryLog()
    log.ensure(topic_of(LANE.use_case), 1)
    published, bad = publish_rows(iter(rows_of(path)), INTO, log, undated_s=1e9, oldest_s=0.0, seen=lambda: None)
    assert published == 1
    assert [(row.line, "send the text in parts" in row.why) for row in bad] == [(1, True)]


def test_rows_without_a_time_get_the_one_that_is_given() -> None:
    event = to_event(TextRow(line=1, key="k", text="a", label="refund", time_s=None), INTO, 1234.0)
    assert event.time_s == 1234.0


def test_a_log_that_does_not_take_a_row_ends_the_import(tmp_path: Path) -> None:
    path = write(tmp_path / "log", [{"text": "a", "label": "refund"}])
    with pytest.raises(LogUnavailableError):
        publish_rows(iter(rows_of(path)), INTO, MemoryLog(), undated_s=1.0, oldest_s=0.0, seen=lambda: None)


def test_rows_that_would_be_dead_letters_for_their_age_are_skipped(tmp_path: Path) -> None:
    path = write(tmp_path / "log", [{"text": "a", "label": "refund", "timestamp": 1_000_000_005}])
    log = MemoryLog()
    log.ensure(topic_of(LANE.use_case), 1)
    published, bad = publish_rows(
        iter(rows_of(path)), INTO, log, undated_s=1_000_000_009.0, oldest_s=1_000_000_006.0, seen=lambda: None
    )
    assert (published, [row.why for row in bad]) == (0, ["too old to be learned from"])


def test_waiting_for_ingest_ends_when_all_is_applied_and_when_nothing_moves() -> None:
    one, two = LogSlot("t", "u", 0), LogSlot("t", "u", 1)
    steps = iter([{}, {one: "3"}, {one: "5"}])
    assert await_applied({one: "5", two: "0"}, lambda: next(steps), stalled_s=5.0, poll_s=0.0)
    assert not await_applied({one: "5"}, lambda: {one: "4"}, stalled_s=0.01, poll_s=0.001)


def test_the_report_counts_every_row_and_lists_a_few(tmp_path: Path) -> None:
    bad = [BadRow(line=n, why="w") for n in range(50)]
    found = report(tmp_path, LANE, {"text": "t", "label": "l"}, 7, bad)
    assert (found.rows, found.published, found.skipped, len(found.bad)) == (57, 7, 50, 20)


@pytest.mark.parametrize(("name", "rows"), [("isear", 3833), ("banking77", 13083)])
def test_real_files_are_read_as_they_are(shared_data: Path, name: str, rows: int) -> None:
    path = shared_data / f"{name}.jsonl"
    columns = find_columns(path, text=None, label=None)
    labels = {
        row["teacher"]["label"] if "teacher" in row else row["label"]
        for row in map(json.loads, path.read_text("utf-8").splitlines())
    }
    found = list(read_rows(path, columns, frozenset(labels)))
    assert len(found) == rows
    assert all(isinstance(row, TextRow) for row in found)


def test_labels_of_an_earlier_list_are_kept_as_they_were_given_and_retired_ones_are_named(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    said = ["refund", "Money Back", "fax", "pigeon"]
    path.write_text("".join(json.dumps({"text": f"t{n}", "label": label}) + "\n" for n, label in enumerate(said)))
    rules = Rules(labels={"money back": "refund", "fax": None})
    found = list(read_rows(path, Columns(text="text", label="label"), ("refund", "delivery"), None, rules))
    assert [row.label for row in found if isinstance(row, TextRow)] == ["refund", "money back"]
    assert [(row.line, row.why) for row in found if isinstance(row, BadRow)] == [
        (3, "label is a label that counts no more: a ruling tells so"),
        (4, "label is not one of the lane's labels"),
    ]
