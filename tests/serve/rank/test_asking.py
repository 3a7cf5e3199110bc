"""Teachers that rank: what is sent, what it may cost, and how each kind of answer and failure is read."""

import asyncio
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis.strategies import integers, lists, sampled_from, text

from serve.settings import TeacherSettings
from serve.teacher.ask.asking import Asking, Tab
from serve.teacher.ask.prompts import wrong_prompt
from serve.teacher.ask.rank import AskForOrder, windows
from serve.teacher.ask.rerank import AskForScores
from serve.teacher.client import Answered, Invalid, Reply, Teacher, Unavailable
from store.event import RankAnswer, RankInput
from tests.serve.fakes import FakeEndpoint
from tests.serve.rank.fakes import DOCUMENTS, LLM, RERANKER, FakeListwise, FakeReranker, worth

QUESTION = RankInput(query="red kite", documents=list(DOCUMENTS))


def asking_of(settings: TeacherSettings) -> Asking:
    return AskForScores(settings) if settings.kind == "rerank" else AskForOrder(settings)


def ask(endpoint: FakeEndpoint, settings: TeacherSettings, question: RankInput = QUESTION) -> Reply:
    teacher = Teacher(settings, asking_of(settings), monotonic=lambda: 0.0, client=endpoint.client())
    return asyncio.run(teacher.ask(question))


def answer(reply: Reply) -> RankAnswer:
    assert isinstance(reply, Answered)
    assert isinstance(reply.answer, RankAnswer)
    return reply.answer


def test_a_reranker_is_sent_the_list_as_it_came_and_scores_come_back_in_its_order() -> None:
    endpoint = FakeReranker()
    settings = replace(RERANKER, parameters={"truncate": "END", "extra_body": {"return_documents": False}})
    found = answer(ask(endpoint, settings))
    assert endpoint.bodies == [
        {
            "model": "big",
            "query": "red kite",
            "documents": list(DOCUMENTS),
            "truncate": "END",
            "return_documents": False,
        }
    ]
    assert found.scores == [worth("red kite", document) for document in DOCUMENTS]
    assert found.order is None


@pytest.mark.parametrize(
    ("usage", "meta", "usd"),
    [
        ({"total_tokens": 1_000}, None, 1e-3 + 0.002),
        ({"prompt_tokens": 1_000, "total_tokens": 1_000}, None, 1e-3 + 0.002),
        (None, {"billed_units": {"search_units": 3}}, 3 * 0.002),
        (None, {"billed_units": {"search_units": 3}, "tokens": {"input_tokens": 1_000}}, 1e-3 + 3 * 0.002),
        ({"total_tokens": -5}, "nothing that can be read", None),
        (None, None, None),
    ],
)
def test_a_reranker_costs_what_its_usage_says_and_the_bound_where_it_says_nothing(
    usage: Any, meta: Any, usd: float | None
) -> None:
    endpoint = FakeReranker()
    endpoint.usage, endpoint.meta = usage, meta
    bound_usd = AskForScores(RERANKER).bound_usd(QUESTION)
    assert answer(ask(endpoint, RERANKER)).cost_usd == pytest.approx(bound_usd if usd is None else usd)


def test_the_bound_of_a_reranker_counts_a_search_for_each_hundred_documents() -> None:
    free = replace(RERANKER, input_usd_per_mtok=0.0)
    for count, searches in ((1, 1), (100, 1), (101, 2), (1_000, 10)):
        question = RankInput(query="a", documents=["b"] * count)
        assert AskForScores(free).bound_usd(question) == pytest.approx(searches * 0.002)


@pytest.mark.parametrize("raw", [b"", b"<html>", b"[]", b'{"results": 3}', b'{"choices": []}', b"\xff"])
def test_a_body_that_is_no_rerank_answer_is_a_teacher_that_is_down_and_may_have_been_billed(raw: bytes) -> None:
    endpoint = FakeReranker()
    endpoint.raw = raw
    reply = ask(endpoint, RERANKER)
    assert isinstance(reply, Unavailable)
    assert reply.billed


@pytest.mark.parametrize(("status", "billed"), [(429, False), (500, True), (404, False), (422, False)])
def test_statuses_of_a_reranker_mean_what_those_of_a_chat_model_mean(status: int, *, billed: bool) -> None:
    endpoint = FakeReranker()
    endpoint.status = status
    reply = ask(endpoint, RERANKER)
    assert isinstance(reply, Unavailable)
    assert reply.billed == billed


def test_a_chat_model_is_shown_numbered_documents_in_an_order_that_is_the_questions_own() -> None:
    endpoint = FakeListwise()
    found = answer(ask(endpoint, LLM))
    permuted = RankInput(query="red kite", documents=list(reversed(DOCUMENTS)))
    again = answer(ask(endpoint, LLM, permuted))
    assert endpoint.shown[0] == endpoint.shown[1]
    assert sorted(endpoint.shown[0]) == sorted(DOCUMENTS)
    assert found.scores is None
    assert found.order is not None
    assert again.order is not None
    assert [DOCUMENTS[place] for place in found.order] == [permuted.documents[place] for place in again.order]
    assert DOCUMENTS[found.order[0]] == "a kite, red and large"


def test_questions_are_shuffled_apart_from_one_another() -> None:
    endpoint = FakeListwise()
    for number in range(6):
        ask(endpoint, LLM, RankInput(query=f"number {number}", documents=list(DOCUMENTS)))
    assert len({tuple(shown) for shown in endpoint.shown}) > 1


def test_a_document_that_comes_twice_is_shown_once_and_stands_together_in_the_order() -> None:
    endpoint = FakeListwise()
    found = answer(ask(endpoint, LLM, RankInput(query="red kite", documents=["soup", "a red  kite", "a red kite"])))
    assert len(endpoint.shown[0]) == 2
    assert found.order == [1, 2, 0]


def test_an_order_may_name_a_part_and_prose_is_invalid_and_paid() -> None:
    endpoint = FakeListwise()
    endpoint.most = 1
    assert answer(ask(endpoint, LLM)).order == [2]

    class Chatty(FakeEndpoint):
        pass

    prose = Chatty()
    prose.answer = "I think document 3 is best, then 1."
    reply = ask(prose, LLM)
    assert isinstance(reply, Invalid)
    assert (reply.kind, reply.cost_usd > 0, reply.said) == ("off_list", True, prose.answer)


def test_a_list_that_is_longer_than_a_window_is_read_from_its_end_and_the_best_rise_to_its_front() -> None:
    endpoint = FakeListwise()
    documents = [f"{'kite ' * (number % 7)}number {number}" for number in range(19)]
    question = RankInput(query="kite", documents=documents)
    found = answer(ask(endpoint, LLM, question))
    assert found.order is not None
    assert sorted(found.order) == list(range(19))
    assert {len(shown) for shown in endpoint.shown} == {4, 3}
    best = sorted(documents, key=lambda document: -worth("kite", document))[:2]
    assert [documents[place] for place in found.order[:2]] == best
    assert found.usage.prompt_tokens == 20 * len(endpoint.shown)
    assert found.cost_usd == pytest.approx(24e-6 * len(endpoint.shown))


def test_a_conversation_that_breaks_off_in_its_middle_was_paid() -> None:
    endpoint = FakeListwise()
    documents = [f"number {number}" for number in range(19)]

    async def main() -> Reply:
        teacher = Teacher(LLM, AskForOrder(LLM), monotonic=lambda: 0.0, client=endpoint.client())
        call = endpoint.__call__

        async def fails_later(request: Any) -> Any:
            if len(endpoint.shown) == 3:
                endpoint.status = 429
            return await call(request)

        teacher._client._client._transport.handler = fails_later  # type: ignore[attr-defined]
        return await teacher.ask(RankInput(query="a", documents=documents))

    reply = asyncio.run(main())
    assert isinstance(reply, Unavailable)
    assert reply.billed


@given(
    documents=lists(text(max_size=30), min_size=1, max_size=30),
    query=text(min_size=1, max_size=20),
    window=integers(2, 10),
    spelt=sampled_from(["$query\n$documents", "$documents ${query} $documents"]),
)
def test_no_conversation_costs_more_than_its_bound(documents: list[str], query: str, window: int, spelt: str) -> None:
    settings = replace(LLM, prompt=spelt, window_documents=window, parameters={"max_tokens": 8})
    asking = AskForOrder(settings)
    question, sent = RankInput(query=query, documents=documents), 0.0
    talk = asking.talk(question, Tab())
    call = next(talk)
    while True:
        prompt = call.body["messages"][0]["content"]
        sent += (len(prompt.encode("utf-8", "replace")) * 1.0 + 8 * 2.0) / 1e6
        said = b'{"choices": [{"message": {"content": "1"}}], "usage": null}'
        try:
            call = talk.send(said)
        except StopIteration:
            break
    assert sent <= asking.bound_usd(question)


@given(documents=integers(1, 400), window=integers(2, 60))
def test_windows_cover_a_list_from_its_end_to_its_front_and_overlap(documents: int, window: int) -> None:
    spans = list(windows(documents, window))
    assert spans[0][1] == documents
    assert spans[-1][0] == 0
    assert all(0 < last - first <= window for first, last in spans)
    assert all(later[1] > earlier[0] for earlier, later in pairwise(spans))


@pytest.mark.parametrize(
    ("documents", "window", "spans"),
    [
        (1, 20, [(0, 1)]),
        (20, 20, [(0, 20)]),
        (21, 20, [(1, 21), (0, 11)]),
        (40, 20, [(20, 40), (10, 30), (0, 20)]),
        (7, 3, [(4, 7), (3, 6), (2, 5), (1, 4), (0, 3)]),
    ],
)
def test_windows_step_by_half_and_none_is_read_twice(documents: int, window: int, spans: list[tuple[int, int]]) -> None:
    assert list(windows(documents, window)) == spans


def test_the_bound_of_a_reranker_counts_the_query_with_each_document() -> None:
    paid = replace(RERANKER, input_usd_per_mtok=1.0, search_usd=0.0)
    asked = RankInput(query="q" * 100, documents=["d" * 10, "d" * 20, "d" * 30])
    tokens = AskForScores(paid).bound_usd(asked) * 1e6
    assert tokens == pytest.approx(3 * (100 + 16) + 60)


def test_all_that_shapes_an_answer_is_in_the_prompt_version() -> None:
    versions = {
        asking_of(settings).prompt_version
        for settings in (
            LLM,
            replace(LLM, window_documents=5),
            replace(LLM, prompt="$query $documents"),
            replace(LLM, parameters={"temperature": 1}),
            replace(LLM, answer_format="json"),
            RERANKER,
            replace(RERANKER, model="other"),
            replace(RERANKER, parameters={"truncate": "END"}),
        )
    }
    assert len(versions) == 8
    assert (
        asking_of(replace(LLM, base_url="http://elsewhere.invalid/v1")).prompt_version == asking_of(LLM).prompt_version
    )


def test_a_prompt_that_lacks_the_query_or_the_documents_or_holds_more_is_wrong() -> None:
    assert wrong_prompt("$query: $documents for $$5", "rank") is None
    for prompt in ("$query", "$documents", "$query $documents $labels", "$text"):
        found = wrong_prompt(prompt, "rank")
        assert found is not None
        assert "$query and $documents" in found
