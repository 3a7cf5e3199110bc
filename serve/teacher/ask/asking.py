"""What a teacher's client has to know of a task: what to send, how to read what comes, and what it can cost.

Nothing here sends: a conversation is a generator that yields what is to be sent next and is given the answer's body.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from store.event import TaskInput, TeacherAnswer, Usage

_MTOK: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request."""

    path: str  # below the endpoint's address
    body: Mapping[str, Any]
    may_stream: bool = False  # its answer may come as the events of a stream, where somebody wants to hear it so
    operation: str = "chat"  # as OpenTelemetry's conventions name it
    provider: str = "openai"  # whose API it speaks


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPrices:
    """What an endpoint takes."""

    input_usd_per_mtok: float
    output_usd_per_mtok: float
    search_usd: float = 0.0  # a reranker's search: a call, for each hundred documents of it

    def usd(self, input_tokens: int, output_tokens: int, searches: int = 0) -> float:
        """For so much."""
        tokens = input_tokens * self.input_usd_per_mtok + output_tokens * self.output_usd_per_mtok
        return tokens / _MTOK + searches * self.search_usd


@dataclass(slots=True, kw_only=True)
class Tab:
    """What one conversation has come to: it is paid whatever the answers are worth."""

    calls: int = 0  # answered
    usd: float = 0.0
    usage: Usage = field(default_factory=Usage)
    said: str = field(default="", repr=False)  # the latest answer as it came: not redacted

    def add(self, usage: Usage | None, usd: float) -> None:
        """One more call was answered; None: the endpoint does not say what it used."""
        self.calls += 1
        self.usd += usd
        if usage is not None:
            self.usage = Usage(
                prompt_tokens=self.usage.prompt_tokens + usage.prompt_tokens,
                completion_tokens=self.usage.completion_tokens + usage.completion_tokens,
            )


Signal = Mapping[str, Any]  # the fields of the task's answer that hold what the teacher said
Talk = Generator[Call, bytes, Signal]


class Asking(Protocol):
    """Asks one lane's teacher, and reads it."""

    @property
    def answer_type(self) -> type[TeacherAnswer]:
        """Of its answers."""

    @property
    def most_bytes(self) -> int:
        """That one of its answers may have."""

    @property
    def prompt_version(self) -> str:
        """The hash of all that shapes its answers."""

    def bound_usd(self, value: TaskInput) -> float:
        """What a whole conversation can cost at most."""

    def talk(self, value: TaskInput, tab: Tab) -> Talk:
        """Converse about a question, and put on the tab what it costs; returns what was said.

        Raises:
            InvalidAnswerError: an answer is of no use.
            ValueError: a body holds no answer at all.
        """
