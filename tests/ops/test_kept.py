"""The buffer looked at, counted and copied, for every task."""

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from pyarrow import parquet

from ops.exits import BAD_SETTINGS, REFUSED
from tests.ops.sites import LANE
from tests.ops.stand import Stand
from tests.ops.task_lanes import DOCUMENTS, call, item_of, make_task_site, run, send

ASKED: Final[dict[str, dict[str, Any]]] = {
    "classify": {"text": "question 1"},
    "rank": {"query": "question 1", "documents": sorted(DOCUMENTS)},
    "chat": {"messages": [{"role": "user", "content": "question 1"}]},
}
SAID: Final[dict[str, Any]] = {"classify": "refund", "rank": {"scores": [0.5, 0.9, 0.1]}, "chat": "call the bank"}


@pytest.fixture(params=["classify", "rank", "chat"])
def stand(tmp_path: Path, redis_url: str, request: pytest.FixtureRequest) -> Iterator[Stand]:
    """A lane of each task, with the answers to six questions, one of them asked twice."""
    with ExitStack() as stack:
        found = Stand(make_task_site(tmp_path / "site", request.param, redis_url), stack)
        send(found, 0, 1, 2, 3, 4, 5, 1)
        yield found


def test_what_is_kept_is_shown_counted_and_copied(stand: Stand, tmp_path: Path) -> None:
    task, name = stand.site.lane(None).task, item_of(stand, 1).item_id
    run(stand, "answers", "drop", item_of(stand, 5).item_id, "--reason", "a slip")
    (one,) = run(stand, "buffer", "show", name[:10])["items"]
    assert (one["item"], one["state"], one["asked"], one["input"]) == (name, "fresh", 2, ASKED[task])
    assert one["answers"][0]["answer"] == SAID[task]
    assert run(stand, "buffer", "show", "--limit", 1)["items"][0]["item"] == name, "it was asked last"
    assert run(stand, "buffer", "show", "--text", "QUESTION  4")["total"] == 1
    assert run(stand, "buffer", "show", "--state", "dropped")["items"][0]["ruling"] == 1

    (stats,) = run(stand, "buffer", "stats")
    assert (stats["items"], stats["states"]["fresh"], stats["states"]["dropped"]) == (6, 5, 1)
    assert (stats["asked"], stats["counted"], stats["ruled_gone"], stats["damaged"]) == (7, 7, 0, [])

    lines, table = tmp_path / "rows.jsonl", tmp_path / "rows.parquet"
    written = run(stand, "buffer", "export", "--to", lines)
    assert (written["rows"], written["splits"]["none"]) == (6, 1)
    rows = {row["item"]: row for row in map(json.loads, lines.read_text("utf-8").splitlines())}
    assert {key: rows[name][key] for key in ASKED[task]} == ASKED[task]
    assert (rows[name]["answer"], rows[name]["asked"]) == (SAID[task], 2)
    assert run(stand, "buffer", "export", "--to", table)["format"] == "parquet"
    found = {row["item"]: row for row in parquet.read_table(table).to_pylist()}
    assert found.keys() == rows.keys()
    answer = found[name]["answer"]
    assert (answer if task != "rank" else json.loads(answer)) == SAID[task]
    assert [found[one]["split"] for one in found] == [rows[one]["split"] for one in found]

    refused = call(stand, "buffer", "export", "--to", lines)
    assert refused.exit_code == REFUSED
    assert "is there already" in " ".join(refused.stderr.split())
    assert not list(tmp_path.glob(".*.tmp"))


def test_an_export_that_was_edited_corrects_what_was_edited_and_nothing_else(stand: Stand, tmp_path: Path) -> None:
    changed = {"classify": "delivery", "rank": {"order": [1, 0, 2]}, "chat": "write to us"}[stand.site.lane(None).task]
    lines = tmp_path / "rows.jsonl"
    run(stand, "buffer", "export", "--to", lines)
    rows = [json.loads(line) for line in lines.read_text("utf-8").splitlines()]
    edited = [{**row, "answer": changed} if place == 2 else row for place, row in enumerate(rows)]
    lines.write_text("".join(json.dumps(row) + "\n" for row in edited), "utf-8")
    found = run(stand, "answers", "correct", "--file", lines, "--reason", "reviewed")
    assert [one["item"] for one in found["questions"]] == [rows[2]["item"]]
    assert found["unchanged"] == 5
    assert list(stand.site.rulings(LANE)[0].answers) == [rows[2]["item"]]


def test_rows_of_a_split_are_those_that_the_next_cycle_holds_there(stand: Stand, tmp_path: Path) -> None:
    text = stand.path.read_text("utf-8")
    stand.path.write_text(text.replace("#calibrate_ratio = 0.15", "calibrate_ratio = 0.5"), "utf-8")
    every = run(stand, "buffer", "export", "--to", tmp_path / "all.jsonl")["splits"]
    assert sum(every.values()) == 6
    for split, count in every.items():
        path = tmp_path / f"{split}.jsonl"
        assert run(stand, "buffer", "export", "--to", path, "--split", split)["rows"] == count
        assert {json.loads(line)["split"] for line in path.read_text("utf-8").splitlines()} == {split}


def test_parquet_without_its_extra_says_so_and_writes_nothing(
    stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused = call(stand, "buffer", "export", "--to", tmp_path / "rows.parquet")
    assert refused.exit_code == BAD_SETTINGS
    assert "pip install 'understudy[parquet]'" in " ".join(refused.stderr.split())
    assert not list(tmp_path.glob("rows*"))


def test_labels_are_asked_for_where_there_are_some(stand: Stand) -> None:
    asked = call(stand, "buffer", "show", "--label", "refund")
    task = stand.site.lane(None).task
    if task == "classify":
        assert json.loads(asked.stdout)["total"] == 6
        return
    assert asked.exit_code == REFUSED
    assert f"is a lane of {task}: it has no labels" in " ".join(asked.stderr.split())
