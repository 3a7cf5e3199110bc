"""`/rerank` over HTTP: the shape that Cohere, Jina and vLLM share, and what is refused with the field named."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.lifecycle import Gateway
from serve.settings import GatewaySettings
from store.errors import RecordTooLargeError
from store.event import RankEscalation, RankInput, decode, encode
from tests.serve.client import run
from tests.serve.fakes import World
from tests.serve.rank.fakes import DOCUMENTS, LLM, FakeListwise, FakeRanker, FakeReranker, body, rank_world

BEST_FIRST = [2, 0, 1, 3]


def only(world: World) -> RankEscalation:
    (event,) = world.sink.events
    assert isinstance(event, RankEscalation)
    assert decode(encode(event)) == event
    return event


def served(folder: Path, **changes: Any) -> World:
    world = rank_world(folder, **changes)
    world.serve(student=FakeRanker())
    return world


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_the_student_ranks_best_first_and_says_who_answered(tmp_path: Path, path: str) -> None:
    world = served(tmp_path)

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        response = await client.post(path, json=body())
        assert response.status_code == 200
        found = response.json()
        assert [one["index"] for one in found["results"]] == BEST_FIRST
        scores = [one["relevance_score"] for one in found["results"]]
        assert scores == sorted(scores, reverse=True)
        assert {frozenset(one) for one in found["results"]} == {frozenset({"index", "relevance_score"})}
        assert found["id"].startswith("rerank-")
        assert found["meta"] == {"api_version": {"version": "2"}}
        assert (found["served_by"], found["version"], found["reason"]) == ("student", "a", None)
        assert (found["withheld"], found["degraded"], found["event_id"]) == (False, None, None)
        assert response.headers["x-understudy-served-by"] == "student"

    run(world, step)
    assert world.sink.events == []


def test_top_n_cuts_and_documents_come_back_where_they_are_wanted_be_they_texts_or_objects(tmp_path: Path) -> None:
    world = served(tmp_path)
    mixed = [DOCUMENTS[0], {"text": DOCUMENTS[1], "title": "ignored"}, {"text": DOCUMENTS[2]}, DOCUMENTS[3]]

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        asked = body(documents=mixed, top_n=2, return_documents=True, max_tokens_per_doc=512, rank_fields=["text"])
        found = (await client.post("/rerank", json=asked)).json()
        assert [one["index"] for one in found["results"]] == BEST_FIRST[:2]
        assert [one["document"] for one in found["results"]] == [{"text": DOCUMENTS[2]}, {"text": DOCUMENTS[0]}]
        more = (await client.post("/rerank", json=body(top_n=100.0, return_documents=None))).json()
        assert len(more["results"]) == len(DOCUMENTS)

    run(world, step)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"query": None}, "query"),
        ({"query": 3}, "query"),
        ({"query": "  "}, "query"),
        ({"documents": "one"}, "documents"),
        ({"documents": []}, "documents"),
        ({"documents": ["a"] * 1001}, "documents"),
        ({"documents": ["", "  "]}, "documents"),
        ({"documents": ["a", 3]}, "documents[1]"),
        ({"documents": ["a", {"title": "b"}]}, "documents[1].text"),
        ({"documents": ["a", "b" * 20_001]}, "documents[1]"),
        ({"query": "q" * 20_001}, "query"),
        ({"top_n": 0}, "top_n"),
        ({"top_n": "all"}, "top_n"),
        ({"return_documents": 1}, "return_documents"),
        ({"user": ""}, "user"),
    ],
)
def test_a_wrong_request_is_refused_with_its_field_and_nobody_is_paid(
    tmp_path: Path, change: dict[str, Any], field: str
) -> None:
    world = rank_world(tmp_path)

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        response = await client.post("/rerank", json=body() | change)
        assert (response.status_code, response.json()["error"]["field"]) == (422, field)

    run(world, step)
    assert world.endpoint.bodies == []


def test_a_missing_field_is_named_and_a_classifying_path_says_where_the_lane_is_served(tmp_path: Path) -> None:
    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        missing = await client.post("/rerank", json={"model": "intent", "query": "a"})
        assert (missing.status_code, missing.json()["error"]["field"]) == (422, "documents")
        elsewhere = await client.post("/classify", json={"model": "intent", "input": "a"})
        assert elsewhere.status_code == 404
        assert "/v2/rerank" in elsewhere.json()["error"]["message"]

    run(rank_world(tmp_path), step)


def test_one_document_empty_documents_and_documents_that_come_twice_are_ranked(tmp_path: Path) -> None:
    world = served(tmp_path)

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        one = (await client.post("/rerank", json=body(documents=["soup"]))).json()
        assert [result["index"] for result in one["results"]] == [0]
        several = (await client.post("/rerank", json=body(documents=["", "a red kite", "", "a red kite"]))).json()
        assert sorted(result["index"] for result in several["results"]) == [0, 1, 2, 3]
        assert {result["index"] for result in several["results"][:2]} == {1, 3}

    run(world, step)


def test_a_thousand_documents_are_one_question(tmp_path: Path) -> None:
    world = rank_world(tmp_path)
    documents = [f"number {number}" for number in range(999)] + ["a red kite"]

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        found = (await client.post("/rerank", json=body(documents=documents))).json()
        assert (found["results"][0]["index"], found["served_by"]) == (999, "teacher")
        assert len(found["results"]) == 1000

    run(world, step)
    assert len(only(world).input.documents) == 1000


def test_a_cold_lane_asks_the_reranker_and_publishes_redacted_documents_in_the_order_in_which_they_came(
    tmp_path: Path,
) -> None:
    world = rank_world(tmp_path)
    documents = ["soup", "a red kite for 4111", "a\n  blue boat"]

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        found = (await client.post("/rerank", json=body(documents=documents, user="jane"))).json()
        assert (found["served_by"], found["reason"], found["propensity"]) == ("teacher", "cold", 1.0)
        assert found["usage"]["total_tokens"] == 40
        assert found["event_id"] is not None

    run(world, step)
    assert world.endpoint.bodies == [{"model": "big", "query": "red kite", "documents": documents}]
    event = only(world)
    assert event.input == RankInput(query="red kite", documents=["soup", "a red kite for <CARD:0>", "a\n  blue boat"])
    assert event.teacher.order is None
    assert event.teacher.scores is not None
    assert [score > 1 for score in event.teacher.scores] == [False, True, False]
    assert (event.student, event.escalation.reason) == (None, "cold")
    assert event.subject is not None
    assert event.subject.startswith("subject:")


def test_an_order_has_scores_that_fall_by_place_and_what_it_does_not_name_comes_last(tmp_path: Path) -> None:
    world = rank_world(tmp_path, LLM)
    assert isinstance(world.endpoint, FakeListwise)
    world.endpoint.most = 2

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        found = (await client.post("/rerank", json=body())).json()["results"]
        assert [one["index"] for one in found][:2] == BEST_FIRST[:2]
        assert [one["relevance_score"] for one in found] == [1.0, 0.75, 0.0, 0.0]
        again = (await client.post("/rerank", json=body())).json()["results"]
        assert again == found

    run(world, step)
    event = world.sink.events[0]
    assert isinstance(event, RankEscalation)
    assert (event.teacher.order, event.teacher.scores) == (BEST_FIRST[:2], None)


def test_what_the_student_makes_of_a_list_is_in_the_event_from_before_the_answer(tmp_path: Path) -> None:
    world = served(tmp_path)

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        found = (await client.post("/rerank", json=body("unsure red kite"))).json()
        assert (found["served_by"], found["reason"]) == ("teacher", "low_confidence")

    run(world, step)
    student = only(world).student
    assert student is not None
    assert (student.version, student.output, student.confidence) == ("a", "[2, 0, 1, 3]", 0.5)
    assert [len(scores) for scores in student.members] == [len(DOCUMENTS)]


def test_a_list_that_is_too_long_for_the_student_goes_to_the_teacher(tmp_path: Path) -> None:
    world = served(tmp_path)

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        found = (await client.post("/rerank", json=body(documents=["long " * 500, "soup"]))).json()
        assert (found["served_by"], found["reason"]) == ("teacher", "too_long")

    run(world, step)


def test_a_forced_list_an_audited_one_and_a_teacher_that_is_down(tmp_path: Path) -> None:
    world = served(tmp_path, audit_ratio=1.0)

    async def step(client: httpx.AsyncClient, gateway: Gateway) -> None:
        forced = (await client.post("/rerank", json=body(), headers={"X-Understudy-Force": "teacher"})).json()
        assert (forced["served_by"], forced["reason"]) == ("teacher", "forced")
        audited = (await client.post("/rerank", json=body())).json()
        assert (audited["served_by"], audited["reason"], audited["propensity"]) == ("student", "audit", 1.0)
        await gateway.lanes[0].service.audits.settled()
        world.endpoint.status = 500
        down = await client.post("/rerank", json=body("unsure red kite"))
        assert (down.json()["served_by"], down.json()["degraded"]) == ("student", "teacher_down")
        assert [one["index"] for one in down.json()["results"]] == BEST_FIRST
        nobody = await client.post("/rerank", json=body(), headers={"X-Understudy-Force": "teacher"})
        assert (nobody.status_code, nobody.json()["error"]["code"]) == (503, "teacher_down")

    run(world, step)
    assert [event.escalation.reason for event in world.sink.events] == ["forced", "audit"]


def test_the_same_list_under_one_idempotency_key_is_paid_once_and_another_top_n_is_another_request(
    tmp_path: Path,
) -> None:
    world = rank_world(tmp_path)
    key = {"Idempotency-Key": "k1"}

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        first = await client.post("/rerank", json=body(return_documents=True), headers=key)
        again = await client.post("/rerank", json=body(return_documents=True), headers=key)
        assert again.headers["idempotency-replayed"] == "true"
        assert again.json() == first.json()
        other = await client.post("/rerank", json=body(top_n=1, return_documents=True), headers=key)
        assert other.status_code == 422

    run(world, step)
    assert len(world.endpoint.bodies) == 1


def test_an_answer_that_scores_no_whole_list_is_invalid_and_was_paid(tmp_path: Path) -> None:
    world = rank_world(tmp_path)
    assert isinstance(world.endpoint, FakeReranker)
    world.endpoint.change = lambda results: results[:-1]

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        response = await client.post("/rerank", json=body())
        assert (response.status_code, response.json()["error"]["code"]) == (502, "invalid_answer")

    run(world, step)
    assert world.metric("understudy_invalid_answers_total", kind="truncated") == 1
    assert world.metric("understudy_teacher_usd_total") > 0


def test_a_long_list_is_read_in_portions_so_that_others_have_their_turn(tmp_path: Path) -> None:
    settings = GatewaySettings(follow_s=0.02, batch_wait_s=0.001, max_batch_tokens=40)
    world, student = rank_world(tmp_path, settings=settings), FakeRanker()
    world.serve(student=student)
    documents = [f"document number {number}" for number in range(100)]

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        student.seen.clear()
        found = (await client.post("/rerank", json=body(documents=documents))).json()
        assert len(found["results"]) == 100

    run(world, step)
    *portions, whole = student.seen
    assert len(portions) > 5
    assert [document for portion in portions for document in portion.documents] == documents
    assert list(whole.documents) == documents


def test_what_the_caches_of_document_vectors_do_is_told(tmp_path: Path) -> None:
    world = served(tmp_path)
    services = replace(world.services(), vectors=lambda: (7, 3, 5))
    gateway = Gateway(services, world.settings)
    gateway._tell()
    found = [
        world.prometheus.get_sample_value(f"understudy_document_vectors_{name}")
        for name in ("found", "computed", "kept")
    ]
    assert found == [7, 3, 5]


def test_an_event_that_is_too_large_is_answered_and_said_and_counted(tmp_path: Path) -> None:
    world = rank_world(tmp_path)
    world.sink.failure = RecordTooLargeError("1,100,000 bytes")

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        found = (await client.post("/rerank", json=body())).json()
        assert (found["served_by"], found["degraded"], found["event_id"]) == ("teacher", "escalation_dropped", None)
        assert len(found["results"]) == len(DOCUMENTS)

    run(world, step)
    assert world.sink.events == []
    assert world.metric("understudy_escalations_dropped_total") == 1
