"""Ranking by a reranker: any endpoint of the shape that Cohere, Jina and vLLM share, which scores every document."""

from typing import Annotated, Any, Final, cast

import msgspec

from serve.settings import TeacherSettings
from serve.teacher.ask.asking import Call, Signal, Tab, Talk
from serve.teacher.ask.chat import prices_of, size_bytes
from serve.teacher.ask.prompts import shaped_beside
from serve.teacher.parameters import body_of
from store.answers.prompt import prompt_version
from store.answers.ranking import read_results
from store.event import RankAnswer, RankInput, TaskInput, Usage

_PATH: Final = "/rerank"
_ENVELOPE_TOKENS: Final = 16  # separators around each pair of query and document
_SEARCH_DOCUMENTS: Final = 100
_Tokens = Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)]
_Searches = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]


class _Usage(msgspec.Struct, frozen=True):
    """As Jina, vLLM and others say it."""

    prompt_tokens: _Tokens | None = None
    total_tokens: _Tokens | None = None


class _Tokens2(msgspec.Struct, frozen=True):
    input_tokens: _Tokens | None = None


class _Billed(msgspec.Struct, frozen=True):
    search_units: _Searches | None = None
    input_tokens: _Tokens | None = None


class _Meta(msgspec.Struct, frozen=True):
    """As Cohere says it."""

    billed_units: _Billed | None = None
    tokens: _Tokens2 | None = None


class _Body(msgspec.Struct, frozen=True):
    results: list[Any]
    usage: Any = None  # read apart: an answer is good whatever its endpoint counts
    meta: Any = None


class AskForScores:
    """Satisfies `Asking`."""

    answer_type: Final = RankAnswer
    most_bytes: Final = 8 << 20  # some give a thousand documents back, whether they are wanted or not

    def __init__(self, settings: TeacherSettings) -> None:
        """Prepare what every call has in common."""
        self._model = settings.model
        self._body = body_of(settings.parameters)
        self._prices = prices_of(settings)
        self.prompt_version = prompt_version(
            model=settings.model,
            prompt="",
            parameters=settings.parameters,
            answer_format=settings.answer_format,
            beside=shaped_beside("rank", settings.kind, window_documents=settings.window_documents),
        )

    def bound_usd(self, value: TaskInput) -> float:
        """See `Asking`: a byte is at least a token, and a cross-encoder reads the query with each document."""
        asked = cast("RankInput", value)
        query = size_bytes(asked.query) + _ENVELOPE_TOKENS
        tokens = sum(query + size_bytes(document) for document in asked.documents)
        return self._prices.usd(tokens, 0, _searches(asked))

    def talk(self, value: TaskInput, tab: Tab) -> Talk:
        """See `Asking`. All documents are scored: `top_n` is not asked for."""
        asked = cast("RankInput", value)
        body = yield Call(
            path=_PATH,
            body={"model": self._model, "query": asked.query, "documents": list(asked.documents), **self._body},
            operation="rerank",
            provider="cohere",
        )
        try:
            found = msgspec.convert(msgspec.json.decode(body), _Body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            message = "not a rerank answer"
            raise ValueError(message) from error
        tokens, searches = _used(found)
        if tokens is None and searches is None:
            tab.add(None, self.bound_usd(value))
        else:
            usage = Usage(prompt_tokens=tokens or 0)
            tab.add(usage, self._prices.usd(tokens or 0, 0, _searches(asked) if searches is None else searches))
        tab.said = msgspec.json.encode(found.results).decode()
        signal: Signal = {"scores": read_results(found.results, len(asked.documents))}
        return signal


def _searches(asked: RankInput) -> int:
    return -(-len(asked.documents) // _SEARCH_DOCUMENTS)


def _used(body: _Body) -> tuple[int | None, int | None]:
    """Tokens and searches, where the endpoint says something that can be."""
    try:
        usage = msgspec.convert(body.usage, _Usage | None) or _Usage()
    except msgspec.MsgspecError:
        usage = _Usage()
    try:
        meta = msgspec.convert(body.meta, _Meta | None) or _Meta()
    except msgspec.MsgspecError:
        meta = _Meta()
    billed = meta.billed_units or _Billed()
    counted = None if meta.tokens is None else meta.tokens.input_tokens
    return usage.prompt_tokens or usage.total_tokens or billed.input_tokens or counted, billed.search_units
