"""What a version says of its student, task by task: how it answers, what it was made of, and its golden outputs."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import msgspec

from store.errors import SwapRefusedError
from store.event import Message, Task
from store.labels import check_label_map
from store.policy import Moment

Mode = Literal["none", "kept", "fresh", "warm"]
"""What became of the fine-tuned member: there is none, the champion's own, from the base, or trained on."""


class RecordBase(msgspec.Struct, frozen=True, kw_only=True, tag_field="task"):
    """What every task's record has. What is not known of an older version is at its default."""

    task: ClassVar[Task]

    recipe: str = ""  # hash of what else than the rows it follows from
    precision: Literal["fp32", "bf16"] | None = None  # with which its golden outputs were made
    threads: int = 1  # of torch, in its fit
    rows: int = 0  # that it was fitted to
    fine_tune: Mode = "none"
    tuned_rows: int | None = None  # that its fine-tuned member was last trained on

    @property
    def answers_from(self) -> Sequence[Any]:
        """What its answers follow from beside its files, its preprocessing and its policy."""
        raise NotImplementedError

    def check_follows(self, serving: "RecordBase | None", *, removal_declared: bool) -> None:  # noqa: ARG002 - of a task whose answers name nothing of the student's own, any version may follow
        """See that clients of the serving version can live with this one.

        Args:
            serving: the serving version's record; None while the lane is cold.
            removal_declared: a person moved the lane to a version that knows less.

        Raises:
            SwapRefusedError: they cannot; the message says what to do.
        """
        if serving is not None and serving.task != self.task:
            message = f"the lane is served by a version of {serving.task}, and this one is of {self.task}"
            raise SwapRefusedError(message)


class Golden(msgspec.Struct, frozen=True, kw_only=True):
    """A text with the probabilities that the trainer saw; a gateway must see the same."""

    text: str
    probs: list[float]


class ClassifyRecord(RecordBase, frozen=True, kw_only=True, tag="classify"):
    """A student of `classify`."""

    task: ClassVar[Task] = "classify"

    labels: list[str]  # the label map: index -> label
    pool_weights: list[float] = []  # the frozen head's and, where there is one, the fine-tuned encoder's; they sum to 1
    golden: list[Golden]
    label_items: dict[str, int] = {}  # training items of each label
    head_scale: float | None = None  # of the discriminants
    mix_opinions: int = 0  # earlier opinions that the weights were chosen by

    @property
    def answers_from(self) -> Sequence[Any]:
        """See `RecordBase`."""
        return [self.labels, self.pool_weights]

    def check_follows(self, serving: RecordBase | None, *, removal_declared: bool) -> None:
        """See `RecordBase`: labels keep their places, and none goes unless a person declared it."""
        RecordBase.check_follows(self, serving, removal_declared=removal_declared)
        before = serving.labels if isinstance(serving, ClassifyRecord) else ()
        check_label_map(before, self.labels, removal_declared=removal_declared)


class RankGolden(msgspec.Struct, frozen=True, kw_only=True):
    """A list with the scores that the trainer saw, in the order of the documents."""

    query: str
    documents: list[str]
    scores: list[float]


class RankRecord(RecordBase, frozen=True, kw_only=True, tag="rank"):
    """A student of `rank`."""

    task: ClassVar[Task] = "rank"

    k: int  # first places that its confidence is about
    epsilon: float  # what each of them may lose, in the teacher's scores; 0 for a teacher who gives orders
    scored: bool  # its teacher gave scores: their differences mean something
    tuned_share: float = 0.0  # of the fine-tuned member in the score; the frozen one's is the rest
    golden: list[RankGolden]
    items: int = 0  # documents with a bias of their own
    longest_list: int = 0  # documents in the longest list that it was fitted to

    @property
    def answers_from(self) -> Sequence[Any]:
        """See `RecordBase`."""
        return [self.k, self.epsilon, self.tuned_share]


class ChatGolden(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Messages with the answer that the trainer saw, and the log-probability of each of its tokens."""

    messages: list[Message]
    text: str
    tokens: list[int]  # ids, the end included where there is one: another spelling of the text would be another answer
    logprobs: list[float]
    early: dict[Moment, float] = {}  # how sure it was before it had answered


class ChatRecord(RecordBase, frozen=True, kw_only=True, tag="chat"):
    """A student of `chat`."""

    task: ClassVar[Task] = "chat"

    tokenizer: str  # sha256 of its tokenizer.json
    template: str  # sha256 of its chat template
    layers: int  # that were trained, from the top
    rank: int | None  # of their adapter; None: they were trained in full
    max_prompt_tokens: int
    max_answer_tokens: int
    signals: list[str]  # that its confidence follows from, in the order of an opinion's member
    deciding_tokens: int = 0  # with so many tokens of its answer it can say how sure it is; 0: with all of it alone
    forms: list[str] | None = None  # of answers that it was trained to give, beside texts; None: nobody noted
    neighbours: int = 0  # training prompts that a new one is compared with
    golden: list[ChatGolden]

    @property
    def answers_from(self) -> Sequence[Any]:
        """See `RecordBase`."""
        return [self.max_prompt_tokens, self.max_answer_tokens, self.deciding_tokens, self.signals, self.forms]


StudentRecord = ClassifyRecord | RankRecord | ChatRecord
