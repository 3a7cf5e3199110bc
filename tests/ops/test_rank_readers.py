"""Logs of rankings are read in the shapes that people have them in, and what is wrong is named by row and field."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ops.readers.files import BadRow
from ops.readers.lists.rows import ListRow
from ops.readers.lists.values import Said
from ops.readers.rows import Told
from ops.readers.tasks import open_reader
from store.errors import SettingsError
from store.event import RankInput

DOCUMENTS = ["red shoes", "blue shoes", "a hat"]
SCORES = [0.25, 0.75, 0.5]
LISTS = 6


def written(folder: Path, rows: Iterable[Any]) -> Path:
    path = folder / "log.jsonl"
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def found(path: Path, named: Mapping[str, str | None] | None = None, told: Told | None = None) -> list[Any]:
    return list(open_reader("rank", path, named or {}).rows(told or Told()))


def whys(path: Path, named: Mapping[str, str | None] | None = None) -> list[tuple[int, str]]:
    return [(row.line, row.why) for row in found(path, named) if isinstance(row, BadRow)]


RESULTS = [{"index": place, "relevance_score": SCORES[place]} for place in (1, 2, 0)]
REQUEST = {"model": "m", "query": "Q", "documents": DOCUMENTS}
FULL = Said(scores=tuple(SCORES))
BEST_FIRST = Said(order=(1, 2, 0))
SHAPES: dict[str, tuple[dict[str, Any], Said]] = {
    "scores": ({"query": "Q", "documents": DOCUMENTS, "scores": SCORES}, FULL),
    "whole numbers": ({"query": "Q", "documents": DOCUMENTS, "scores": [3, 2, 1]}, Said(scores=(3.0, 2.0, 1.0))),
    "a teacher's scores": ({"query": "Q", "documents": DOCUMENTS, "teacher": {"model": "m", "scores": SCORES}}, FULL),
    "order": ({"query": "Q", "documents": DOCUMENTS, "order": [1, 2, 0]}, BEST_FIRST),
    "a teacher's order": ({"query": "Q", "documents": DOCUMENTS, "teacher": {"order": [1, 2, 0]}}, BEST_FIRST),
    "the first alone": ({"query": "Q", "documents": DOCUMENTS, "order": [1]}, Said(order=(1,))),
    "texts of objects": ({"query": "Q", "documents": [{"text": one} for one in DOCUMENTS], "scores": SCORES}, FULL),
    "ids and texts": (
        {
            "query": "Q",
            "documents": [{"id": f"d{n}", "text": one} for n, one in enumerate(DOCUMENTS)],
            "order": ["d1", "d2", "d0"],
        },
        BEST_FIRST,
    ),
    "scores by id": (
        {
            "query": "Q",
            "documents": [{"id": 9 - n, "text": one} for n, one in enumerate(DOCUMENTS)],
            "scores": {"7": 0.5, "9": 0.25, "8": 0.75},
        },
        FULL,
    ),
    "an order of texts": (
        {"query": "Q", "documents": DOCUMENTS, "ranking": [DOCUMENTS[n] for n in (1, 2, 0)]},
        BEST_FIRST,
    ),
    "request and response": ({"request": REQUEST, "response": {"id": "r", "results": RESULTS}}, FULL),
    "bodies": ({"request": {"body": REQUEST}, "response": {"status": 200, "body": {"results": RESULTS}}}, FULL),
    "strings of JSON": ({"request": json.dumps(REQUEST), "response": json.dumps({"results": RESULTS})}, FULL),
    "results beside": ({"query": "Q", "documents": DOCUMENTS, "results": RESULTS}, FULL),
    "Voyage's data": ({"query": "Q", "documents": DOCUMENTS, "response": {"data": RESULTS}}, FULL),
    "TEI's texts": (
        {
            "request": {"query": "Q", "texts": DOCUMENTS},
            "response": [{"index": n, "score": SCORES[n]} for n in range(3)],
        },
        FULL,
    ),
    "top_n": ({"request": {**REQUEST, "top_n": 2}, "response": {"results": RESULTS[:2]}}, Said(order=(1, 2))),
    "top_n, not in order": (
        {"request": REQUEST, "response": {"results": [RESULTS[1], RESULTS[0]]}},
        Said(order=(1, 2)),
    ),
    "results by document": (
        {
            "request": REQUEST,
            "response": {
                "results": [{"document": {"text": DOCUMENTS[n]}, "relevance_score": SCORES[n]} for n in range(3)]
            },
        },
        FULL,
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_list_a_row_is_read_in_every_shape_by_itself(tmp_path: Path, shape: str) -> None:
    row, said = SHAPES[shape]
    queries = [f"where {n}" for n in range(LISTS)]
    path = written(
        tmp_path, [json.dumps(row).replace('"Q', f'"{one}').replace('\\"Q', f'\\"{one}') + "\n" for one in queries]
    )
    rows = found(path)
    assert all(isinstance(one, ListRow) for one in rows), rows
    assert [one.said for one in rows] == [said] * LISTS
    assert [one.input for one in rows] == [RankInput(query=one, documents=DOCUMENTS) for one in queries]


LONG: list[dict[str, Any]] = [
    {"query_id": f"q{n}", "query": f"where {n}", "document": text, "score": score}
    for n in range(LISTS)
    for text, score in zip(DOCUMENTS, SCORES, strict=True)
]


def as_table(rows: list[dict[str, Any]], delimiter: str = ",") -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("".join(json.dumps(row) + "\n" for row in LONG), FULL),
        ("".join(json.dumps(row) + "\n" for row in sorted(LONG, key=lambda row: str(row["document"]))), None),
        (as_table(LONG), FULL),
        (as_table(LONG, "\t"), FULL),
        (as_table([{name: row[name] for name in ("query", "document", "score")} for row in LONG]), FULL),
        (
            as_table([
                {"qid": row["query_id"], "query": row["query"], "passage": row["document"], "rank": [3, 1, 2][n % 3]}
                for n, row in enumerate(LONG)
            ]),
            BEST_FIRST,
        ),
    ],
    ids=["lines", "lines in another order", "csv", "tsv", "by the query", "as a TREC run with texts"],
)  # fmt: skip
def test_a_document_a_row_is_put_together_by_its_query(tmp_path: Path, text: str, said: Said | None) -> None:
    rows = found(written(tmp_path, [text]))
    assert [one.query for one in rows] == [f"where {n}" for n in range(LISTS)]
    assert all(sorted(one.documents) == sorted(DOCUMENTS) for one in rows)
    for one in rows:
        by_text = dict(zip(one.documents, one.said.scores or (), strict=False))
        assert one.said == said if said is not None else by_text == dict(zip(DOCUMENTS, SCORES, strict=True))


GOOD = {"query": "where", "documents": DOCUMENTS, "scores": SCORES}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"scores": [0.1, 0.2]}, "scores has 2 scores for 3 documents"),
        ({"scores": [0.1, math.nan, 0.2]}, "scores[1] is no finite number"),
        ({"scores": [0.1, 0.2, math.inf]}, "scores[2] is no finite number"),
        ({"scores": [0.1, "much", 0.2]}, "scores[1] is no finite number"),
        ({"scores": [0.1, True, 0.2]}, "scores[1] is no finite number"),
        ({"scores": "0.1"}, "scores is no list of scores"),
        ({"scores": None}, "no answer in scores"),
        ({"scores": {"a": 1, "b": 2, "c": 3}}, "scores has not one score for each document's id"),
        ({"documents": []}, "no list of documents in documents"),
        ({"documents": "red shoes"}, "no list of documents in documents"),
        ({"documents": ["a", " ", "b"]}, "documents[1] has no text"),
        ({"documents": ["a", {"id": 1}, "b"]}, "documents[1] has no text"),
        ({"documents": ["d"] * 1001}, "documents has 1,001 documents, at most 1,000 are ranked"),
        ({"query": ""}, "no query in query"),
        ({"query": 5}, "no query in query"),
        ({"time": 1e20}, None),
        ({"time": "0000-01-01T00:00:00Z"}, "the time in time is outside of the years 1 to 9999, UTC"),
    ],
)
def test_what_is_wrong_with_a_row_is_named_by_its_field(
    tmp_path: Path, change: dict[str, Any], why: str | None
) -> None:
    path = written(tmp_path, [GOOD, {**GOOD, **change}, *[GOOD] * 3])
    assert whys(path) == ([] if why is None else [(2, why)])


@pytest.mark.parametrize(
    ("order", "why"),
    [
        ([3, 1, 2], "order[0] is the place of no document: they are 0 to 2"),
        ([-1, 1, 0], "order[0] is the place of no document: they are 0 to 2"),
        ([1, 1, 0], "order names a document twice"),
        ([1, 0.5, 0], "order[1] is no document's place, id or text"),
        ([True, 1, 0], "order[0] is no document's place, id or text"),
        (["a hat", "a cap", "red shoes"], "order[1] is no document's place, id or text"),
    ],
)
def test_what_is_wrong_with_an_order_is_named_by_its_place(tmp_path: Path, order: list[Any], why: str) -> None:
    good = {"query": "where", "documents": DOCUMENTS, "order": [1, 2, 0]}
    assert whys(written(tmp_path, [good, {**good, "order": order}, good])) == [(2, why)]


@pytest.mark.parametrize(
    ("results", "why"),
    [
        ([{"index": 4, "relevance_score": 1}], "results[0].index is the place of no document: they are 0 to 2"),
        ([{"index": 0, "relevance_score": math.nan}], "results[0].relevance_score is no finite number"),
        ([{"index": 0, "relevance_score": 1}] * 2, "results names a document twice"),
        ([{"index": 0, "relevance_score": 1}, "x"], "results[1] is no result"),
        ([{"relevance_score": 1}], "results[0].index is no document's place, id or text"),
    ],
)
def test_what_is_wrong_with_an_endpoints_results_is_named(tmp_path: Path, results: list[Any], why: str) -> None:
    good = {"query": "where", "documents": DOCUMENTS, "results": RESULTS}
    assert whys(written(tmp_path, [good, {**good, "results": results}, good])) == [(2, why)]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"score": "x"}, "score is no finite number: its list is left out"),
        ({"document": None}, "no document in document: its list is left out"),
        ({"query": "another"}, "another query in query than the other rows of this query_id: its list is left out"),
    ],
)
def test_a_bad_document_leaves_out_its_list_and_no_other(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    rows = [dict(row) for row in LONG]
    rows[4] |= change
    path = written(tmp_path, rows)
    assert whys(path) == [(5, why)]
    assert [row.query for row in found(path) if isinstance(row, ListRow)] == [
        "where 0",
        *[f"where {n}" for n in range(2, 6)],
    ]


def test_a_document_without_a_score_makes_the_list_an_order(tmp_path: Path) -> None:
    rows = [{**row, "score": None} if row["document"] == "red shoes" else row for row in LONG]
    assert {row.said for row in found(written(tmp_path, rows))} == {Said(order=(1, 2))}


def test_columns_can_be_named_wherever_they_lie(tmp_path: Path) -> None:
    row = {"q": "no", "in": {"ask": "where"}, "things": DOCUMENTS, "out": {"s": SCORES, "o": [1, 2, 0]}}
    path = written(tmp_path, [row] * 3)
    named = {"--query": "in.ask", "--documents": "things", "--scores": "out.s"}
    reader = open_reader("rank", path, named)
    assert dict(reader.columns) == {"query": "in.ask", "documents": "things", "scores": "out.s"}
    assert [one.said for one in reader.rows(Told()) if isinstance(one, ListRow)] == [FULL] * 3
    named = {"--query": "in.ask", "--documents": "things", "--order": "out.o"}
    assert {one.said for one in found(path, named)} == {BEST_FIRST}


@pytest.mark.parametrize(
    ("rows", "named", "said"),
    [
        (
            [{"words": "a", "documents": DOCUMENTS, "scores": SCORES}],
            {},
            r"no query .*--query.*documents, scores, words",
        ),
        ([{"query": "a", "stuff": 5, "scores": SCORES}], {}, r"no documents .*--documents"),
        ([{"query": "a", "documents": DOCUMENTS}], {}, r"no scores of the documents, and no order.*--scores"),
        ([{"query": "a", "document": "b"}], {}, r"no score of each document, and no rank.*--scores"),
        ([GOOD], {"--query": "qurey"}, r"--query qurey: no row has a query there"),
        ([GOOD], {"--scores": "marks"}, r"--scores marks: no row has a scores"),
        ([GOOD], {"--query-id": "qid"}, r"--query-id qid: no row has a query's id there"),
        ([GOOD], {"--label": "scores"}, r"--label: a log of the task rank has no such column: there is --query"),
    ],
)
def test_what_cannot_be_found_names_its_flag(
    tmp_path: Path, rows: list[Any], named: dict[str, str | None], said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        found(written(tmp_path, rows * 3), named)


def test_a_flag_of_rankings_is_none_of_texts(tmp_path: Path) -> None:
    path = written(tmp_path, [{"text": "a", "label": "b"}])
    with pytest.raises(SettingsError, match="--scores: a log of the task classify has no such column"):
        open_reader("classify", path, {"--scores": "x"})
    with pytest.raises(SettingsError, match="--scores: a log of the task chat has no such column"):
        open_reader("chat", path, {"--scores": "x"})


def test_ids_and_times_are_those_of_every_other_log(tmp_path: Path) -> None:
    rows = [{**GOOD, "id": n // 2, "created_at": "2026-01-01T00:00:00Z"} for n in range(4)]
    told = Told()
    first, second, third, _ = found(written(tmp_path, rows), told=told)
    assert first.key == second.key != third.key
    assert first.time_s == 1_767_225_600.0
    assert told.repeated == 2


def test_lists_without_ids_are_told_apart_by_how_often_they_came_whatever_the_order_of_asking(tmp_path: Path) -> None:
    turned = {"query": "where", "documents": DOCUMENTS[::-1], "scores": SCORES[::-1]}
    keys = [row.key for row in found(written(tmp_path, [GOOD, GOOD, turned]))]
    assert len(set(keys)) == 3
    longer = [row.key for row in found(written(tmp_path, [GOOD, {**GOOD, "query": "new"}, GOOD, turned]))]
    assert set(keys) < set(longer)


def test_it_is_said_what_is_an_order_what_is_cut_and_which_tolerance_the_scores_call_for(tmp_path: Path) -> None:
    told = Told()
    rows: list[Any] = [{**GOOD, "query": f"q{n}"} for n in range(10)]
    rows += [{"query": f"p{n}", "documents": DOCUMENTS, "results": RESULTS[:1]} for n in range(3)]
    rows += [{**GOOD, "query": "q0", "scores": [0.25 + 0.2, 0.75, 0.5]}]
    path = written(tmp_path, [{"scores": None, "results": None, **row} for row in rows])
    found(path, {"--scores": "scores"}, told)
    assert "98 of 100 of the teacher's scores lie between 0.25 and 0.75" in "\n".join(told.notes)
    assert "is off by 0.0816" in "\n".join(told.notes)  # sqrt(0.2² / 3 / 2)
    assert "a tolerance of 0.16 is proposed" in "\n".join(told.notes)
    told = Told()
    found(path, {"--scores": "results"}, told)
    assert told.notes[0].startswith("3 of 3 lists have an order and no scores")
    assert told.notes[1].startswith("3 lists have an answer for their first documents alone (top_n)")


def test_the_shared_log_of_a_real_reranker_is_read_whole() -> None:
    path = Path(__file__).parents[3] / "shared" / "data" / "rerank.jsonl"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    told = Told()
    rows = found(path, told=told)
    assert len(rows) == 2000
    assert all(isinstance(row, ListRow) and row.said is not None and len(row.said.scores or ()) == 8 for row in rows)
    assert any("a tolerance of 0.0" in note for note in told.notes), told.notes
