"""Fakes for ranking: a student, endpoints of both kinds, and a world around them."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2

from serve.settings import TeacherSettings
from store.event import RankInput, TaskInput
from store.student.loaded import RankOpinion
from store.tasks.tasks import LaneTerms
from tests.serve.fakes import TEACHER, FakeEndpoint, FakeStudent, World

RERANKER = replace(TEACHER, kind="rerank", prompt="", parameters={}, search_usd=0.002)
LLM = replace(TEACHER, prompt="Rank for: $query\n$documents\nAnswer like [2] > [1].", window_documents=4)
DOCUMENTS = ("a red kite", "a blue boat", "a kite, red and large", "soup")


def worth(query: str, document: str) -> float:
    """What anybody here thinks of a document: how many of its words are asked for, and its length to tell it apart."""
    words = set(query.split())
    return sum(word.strip(",") in words for word in document.split()) + len(document) / 1000


class FakeRanker(FakeStudent):
    """Scores by words; sure, but for a query `unsure …`; a document `long …` is too long."""

    def look(self, inputs: Sequence[TaskInput]) -> list[Any]:
        if self.gate is not None:
            self.gate.wait(5)
        if self.failure is not None:
            raise self.failure
        self.batches.append(len(inputs))
        return [self.ranking(value) for value in inputs]

    def ranking(self, value: TaskInput) -> RankOpinion:
        assert isinstance(value, RankInput)
        self.seen.append(value)
        scores = [worth(value.query, document) for document in value.documents]
        order = sorted(range(len(scores)), key=lambda place: -scores[place])
        confidence = 0.5 if value.query.startswith("unsure") else 0.95
        return RankOpinion(
            output=json.dumps(order),
            confidence=confidence,
            uncertainty=1 - confidence,
            novelty=self.stamp,
            members=[scores],
            scores=scores,
            order=order,
        )

    def __init__(self, **rest: Any) -> None:
        super().__init__(**rest)
        self.seen: list[RankInput] = []

    def too_long(self, value: TaskInput) -> bool:
        assert isinstance(value, RankInput)
        return any(document.startswith("long") for document in value.documents)

    def tokens(self, value: TaskInput) -> int:
        assert isinstance(value, RankInput)
        return sum(len(document.split()) for document in value.documents)

    def check_follows(self, serving: Any, *, removal_declared: bool) -> None:
        pass


class FakeReranker(FakeEndpoint):
    """An endpoint of the shape that Cohere, Jina and vLLM share; scores like everybody here."""

    def __init__(self) -> None:
        super().__init__()
        self.usage = {"total_tokens": 40}
        self.meta: Any = None
        self.change: Callable[[list[Any]], list[Any]] = lambda results: results

    def answer_of(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The body of an answer."""
        results: list[Any] = [
            {"index": place, "relevance_score": worth(asked["query"], document), "document": {"text": document}}
            for place, document in enumerate(asked["documents"])
        ]
        results.sort(key=lambda one: -one["relevance_score"])
        body: dict[str, Any] = {"id": "r", "model": "big", "results": self.change(results)}
        return body | ({"usage": self.usage} if self.usage else {}) | ({"meta": self.meta} if self.meta else {})

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        assert request.url.path.endswith("/rerank")
        answered = await super().__call__(request)
        if self.raw is not None or self.status != 200:
            return answered
        return httpx2.Response(200, json=self.answer_of(self.bodies[-1]))


class FakeListwise(FakeEndpoint):
    """A chat model that ranks what it is shown like everybody here, best first: `[2] > [1]`."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 1_000  # that it names
        self.shown: list[list[str]] = []

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        prompt: str = json.loads(request.content)["messages"][0]["content"]
        query = prompt.split("Rank for: ", 1)[1].split("\n", 1)[0]
        shown = re.findall(r"^\[\d+\] (.*)$", prompt, re.MULTILINE)
        self.shown.append(shown)
        ranked = sorted(range(len(shown)), key=lambda place: -worth(query, shown[place]))
        self.answer = " > ".join(f"[{place + 1}]" for place in ranked[: self.most])
        return await super().__call__(request)


def rank_world(folder: Path, teacher: TeacherSettings = RERANKER, **changes: Any) -> World:
    """A gateway whose lane ranks."""
    endpoint = FakeReranker() if teacher.kind == "rerank" else FakeListwise()
    rest = {name: changes.pop(name) for name in ("settings", "audit_ratio", "answers", "ledger") if name in changes}
    return World(
        folder,
        endpoint=endpoint,
        changes={"task": "rank", "terms": LaneTerms(), "teacher": teacher, **changes},
        **rest,
    )


def body(query: str = "red kite", documents: Sequence[Any] = DOCUMENTS, **rest: Any) -> dict[str, Any]:
    """A request."""
    return {"model": "intent", "query": query, "documents": list(documents), **rest}
