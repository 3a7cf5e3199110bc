"""Ranking by a chat model: documents are numbered in a shuffled order, and it answers with an order of their numbers.

A model favours what comes first, so documents are shuffled by a seed that is the question's own: the same question is
asked alike each time, however its client sorts it. A list that is longer than a window is read in windows that overlap
by half, from the end of the list to its front, so that the best rise through all of them (RankGPT: Sun et al. 2023).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from random import Random
from string import Template
from typing import Final, cast

from serve.settings import TeacherSettings
from serve.teacher.ask.asking import Signal, Tab, Talk
from serve.teacher.ask.chat import ChatModel, size_bytes
from serve.teacher.ask.prompts import shaped_beside
from serve.teacher.wire import MAX_ANSWER_BYTES
from store.answers.prompt import prompt_version
from store.answers.ranking import read_order
from store.event import RankAnswer, RankInput, TaskInput
from store.tasks.rank import document_key

_NUMBER_BYTES: Final = 8  # "[1000] " and the line's end


@dataclass(frozen=True, slots=True, kw_only=True)
class _List:
    """A question's distinct documents in the order in which they are offered."""

    query: str
    documents: Sequence[str]
    places: Sequence[Sequence[int]]  # of each: where it stands in the question, once or more often

    @staticmethod
    def of(value: RankInput) -> "_List":
        """Shuffled by a seed of the question: equal questions are offered alike, in whatever order they came."""
        places: dict[str, list[int]] = {}
        for place, document in enumerate(value.documents):
            places.setdefault(document_key(document), []).append(place)
        keys = sorted(places)
        seed = sha256("\x1f".join((document_key(value.query), *keys)).encode()).digest()
        Random(seed).shuffle(keys)  # noqa: S311 - position bias, no secret
        return _List(
            query=value.query,
            documents=[value.documents[places[key][0]] for key in keys],
            places=[places[key] for key in keys],
        )

    def order(self, ranked: Sequence[int]) -> list[int]:
        """Places in the question, best first, of distinct documents that were ranked; equal ones stand together."""
        return [place for one in ranked for place in self.places[one]]


class AskForOrder:
    """Satisfies `Asking`."""

    answer_type: Final = RankAnswer
    most_bytes: Final = MAX_ANSWER_BYTES

    def __init__(self, settings: TeacherSettings) -> None:
        """Prepare the prompt."""
        self._chat = ChatModel(settings)
        self._window = settings.window_documents
        self._format = settings.answer_format
        self._template = Template(settings.prompt)
        self._frame_bytes = size_bytes(self._template.substitute(query="", documents=""))
        self._queries = settings.prompt.count("$query") + settings.prompt.count("${query}")
        self._lists = settings.prompt.count("$documents") + settings.prompt.count("${documents}")
        self.prompt_version = prompt_version(
            model=settings.model,
            prompt=settings.prompt,
            parameters=settings.parameters,
            answer_format=settings.answer_format,
            beside=shaped_beside("rank", settings.kind, window_documents=settings.window_documents),
        )

    def bound_usd(self, value: TaskInput) -> float:
        """See `Asking`: all windows, each as long as if it had the longest documents."""
        asked = cast("RankInput", value)
        sizes = sorted((size_bytes(document) + _NUMBER_BYTES for document in asked.documents), reverse=True)
        longest = sum(sizes[: self._window])
        each = self._frame_bytes + self._queries * size_bytes(asked.query) + self._lists * longest
        return len(list(windows(len(sizes), self._window))) * self._chat.bound_usd(each)

    def talk(self, value: TaskInput, tab: Tab) -> Talk:
        """See `Asking`. An order may name a part of a list; in windows what it does not name keeps its place behind."""
        offered = _List.of(cast("RankInput", value))
        ranked = list(range(len(offered.documents)))
        spans = list(windows(len(ranked), self._window))
        for first, last in spans:
            window = ranked[first:last]
            prompt = self._prompt(offered.query, [offered.documents[one] for one in window])
            body = yield self._chat.call(prompt)
            said = self._chat.read(body, prompt, tab)
            order = read_order(said, len(window), answer_format=self._format)
            if len(spans) == 1:
                found: Signal = {"order": offered.order([window[one] for one in order])}
                return found
            rest = [one for one in range(len(window)) if one not in set(order)]
            ranked[first:last] = [window[one] for one in (*order, *rest)]
        found = {"order": offered.order(ranked)}
        return found

    def _prompt(self, query: str, documents: Sequence[str]) -> str:
        numbered = "\n".join(f"[{number}] {document}" for number, document in enumerate(documents, 1))
        return self._template.substitute(query=query, documents=numbered)


def windows(documents: int, window: int) -> Iterator[tuple[int, int]]:
    """The stretches of a list that are read one after another, the last documents first; one where it is short."""
    step = max(1, window // 2)
    last = documents
    while last > window:
        yield last - window, last
        last -= step
    yield 0, min(documents, last)
