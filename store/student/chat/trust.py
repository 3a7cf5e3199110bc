"""When to trust a student of `chat`: a logistic regression over a few signals of its answer and its question.

One set of numbers for each moment at which a lane may decide; what is not known at that moment has the weight zero.
Whoever has the answers needs no decoder for this, only the small encoder and the training prompts that were near.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from store.errors import CorruptVersionError
from store.event import TaskInput, canonical_text
from store.policy import Moment
from store.registry.students.records import ChatRecord
from store.student.chat.generate import Asked, Generation
from store.student.chat.neighbours import Neighbours, opening_key
from store.student.classify import ENCODER_FOLDER, Opened
from store.student.encoder import Encoder, FloatArray, Precision, read_tensors, shared_encoder
from store.student.folder import ENCODER_FILES
from store.student.loaded import ChatOpinion, EarlyView
from store.student.rank.vectors import sentence_vectors
from store.tasks.chat import ChatRules

Floats = npt.NDArray[np.float64]

SIGNALS: Final = ("sum_logprob", "least_prob", "neighbours_equal", "novelty")
"""Of the answer: the sum of its tokens' log-probabilities, and the least of their probabilities. Of both: the share of
the nearest training prompts whose answer is the student's. Of the question: its distance to the nearest of them."""
EARLY_SIGNALS: Final[Mapping[Moment, tuple[str, ...]]] = {
    "prompt": ("neighbours_unanimous", "novelty"),
    "first_tokens": ("sum_logprob", "least_prob", "neighbours_open", "neighbours_unanimous", "novelty"),
}
"""Of the prompt: the share of the nearest training prompts that have the commonest answer among them. Of the first
tokens: their log-probabilities, and the share of those prompts whose answer begins with them."""
CONFIDENCE_NAME: Final = "confidence.safetensors"
NEIGHBOURS_NAME: Final = "neighbours.json"
OPENINGS_NAME: Final = "openings.json"
NEIGHBOURS_VECTORS: Final = "neighbours.safetensors"
NEIGHBOURS_TENSOR: Final = "vectors"
_RULES: Final = ChatRules()
_PARTS: Final = ("mean", "scale", "weight", "bias")
_MOST: Final = 60.0  # logits beyond are 0 and 1 in any case


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Confidence:
    """The regression: sigmoid(weight . (signals - mean) / scale + bias)."""

    mean: Floats  # [signals]
    scale: Floats  # [signals], above 0
    weight: Floats  # [signals]
    bias: float

    def of(self, signals: Floats) -> Floats:
        """[n] chances that the teacher says the same, of signals [n, signals]."""
        logits = (np.asarray(signals, np.float64) - self.mean) / self.scale @ self.weight + self.bias
        chances: Floats = 1.0 / (1.0 + np.exp(-np.clip(logits, -_MOST, _MOST)))
        return chances

    def arrays(self, name: str) -> dict[str, Floats]:
        """Its numbers by name, as `confidence.safetensors` holds them for one moment of deciding."""
        found = {part: np.asarray(getattr(self, part), np.float64).reshape(-1) for part in _PARTS}
        return {f"{name}.{part}": value for part, value in found.items()}

    @staticmethod
    def read(arrays: Mapping[str, Floats], name: str, signals: int) -> "Confidence":
        """The numbers of one moment of deciding.

        Raises:
            CorruptVersionError: one is missing, of another size, or no number.
        """
        found = {part: arrays.get(f"{name}.{part}") for part in _PARTS}
        for part, value in found.items():
            size = 1 if part == "bias" else signals
            if value is None or value.shape != (size,) or not np.isfinite(value).all():
                message = f"the confidence has no {size} numbers {name}.{part}"
                raise CorruptVersionError(message)
        mean, scale, weight, bias = (np.asarray(found[part], np.float64) for part in _PARTS)
        if not bool((scale > 0).all()):
            message = f"the confidence has a scale {name}.scale that is not above 0"
            raise CorruptVersionError(message)
        return Confidence(mean=mean, scale=scale, weight=weight, bias=float(bias[0]))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Early:
    """How sure a student is before its answer is whole."""

    tokens: int  # of an answer, that `first_tokens` looks at
    heads: Mapping[Moment, Confidence]


def answer_signals(logprobs: Sequence[float]) -> tuple[float, float]:
    """The sum of an answer's log-probabilities, and the least probability of its tokens."""
    return float(np.sum(logprobs)), float(np.exp(np.min(logprobs)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trust:
    """What a version brings with it to judge its answers by."""

    encoder: Encoder  # the small one: novelty and neighbours
    neighbours: Neighbours
    confidence: Confidence
    early: Early | None = None  # None: it is sure of whole answers alone

    @staticmethod
    def read(opened: Opened, record: ChatRecord, *, device: str = "auto", precision: Precision = "auto") -> "Trust":
        """Out of a verified version; its decoder is not loaded.

        Raises:
            CorruptVersionError: the files and the record do not fit together.
            SwapRefusedError: this release cannot run such an encoder here.
        """
        manifest = opened.manifest
        encoder = shared_encoder(
            {name: manifest.files[ENCODER_FOLDER + name].sha256 for name in ENCODER_FILES},
            lambda name: opened.read(ENCODER_FOLDER + name),
            device=device,
            precision=precision,
            max_tokens=manifest.preprocessing.max_tokens,
            kind=Encoder,
        )
        numbers = read_tensors(CONFIDENCE_NAME, opened.read(CONFIDENCE_NAME))
        arrays = {name: value.double().numpy() for name, value in numbers.items()}
        return Trust(
            encoder=encoder,
            neighbours=_neighbours(opened, record, encoder.hidden_size),
            confidence=Confidence.read(arrays, "end", len(record.signals)),
            early=_early(arrays, record),
        )

    @property
    def moments(self) -> tuple[Moment, ...]:
        """When it can say how sure it is, before an answer is whole."""
        return () if self.early is None else tuple(self.early.heads)

    def vectors(self, inputs: Sequence[TaskInput]) -> FloatArray:
        """[n, hidden] of what was said in redacted conversations, each of length 1."""
        return sentence_vectors(self.encoder, [_RULES.words(value) for value in inputs])

    def distance(self, first: str, second: str) -> float:
        """See `store.student.loaded.Compares`."""
        return float(text_distances(self.encoder, [first], [second])[0])

    def opinions(self, said: Sequence[Generation], vectors: FloatArray) -> list[ChatOpinion]:
        """What to make of answers.

        Args:
            said: one a conversation; one that was cut short is never trusted.
            vectors: [n, hidden] of the conversations.

        Raises:
            ValueError: a number is not finite: the student is broken.
        """
        if not said:
            return []
        signals = np.column_stack(
            [
                np.array([answer_signals(one.logprobs) for one in said]),
                self.neighbours.equal(vectors, [one.text for one in said]),
                self.neighbours.novelty(vectors),
            ]
        )
        chances = self.confidence.of(signals)
        _check(signals, chances)
        views = self._views(vectors, said)
        return [
            _opinion(one, float(chance), row.tolist(), view)
            for one, chance, row, view in zip(said, chances, signals, views, strict=True)
        ]

    def opening(self, said: Generation, vector: FloatArray) -> ChatOpinion | None:
        """What to make of an answer that still grows, by its first tokens; None while they are not there.

        Args:
            said: the answer as far as it goes.
            vector: [hidden] of the conversation.
        """
        if self.early is None or (len(said.ids) < self.early.tokens and said.finish_reason is None):
            return None
        return _before(said.asked, self._views(vector[None], [said])[0], "first_tokens")

    def expect(self, asked: Sequence[Asked], vectors: FloatArray) -> list[ChatOpinion]:
        """What to make of conversations before anything is answered; vectors [n, hidden]."""
        views = self._views(vectors, None)
        return [_before(one, view, "prompt") for one, view in zip(asked, views, strict=True)]

    def _views(self, vectors: FloatArray, said: Sequence[Generation] | None) -> list[dict[Moment, EarlyView]]:
        """How sure a student was of each conversation at each moment; without answers, by the prompt alone."""
        found: list[dict[Moment, EarlyView]] = [{} for _ in range(len(vectors))]
        if self.early is None or not len(vectors):
            return found
        prompt = np.column_stack([self.neighbours.unanimous(vectors), self.neighbours.novelty(vectors)])
        signals: dict[Moment, Floats] = {"prompt": prompt}
        if said is not None:
            count = self.early.tokens
            first = np.array([answer_signals(one.logprobs[:count]) for one in said])
            opens = self.neighbours.opening(vectors, [opening_key(one.ids[:count]) for one in said])
            signals["first_tokens"] = np.column_stack([first, opens, prompt])
        for moment, rows in signals.items():
            chances = self.early.heads[moment].of(rows)
            _check(rows, chances)
            for one, chance, row in zip(found, chances.tolist(), rows.tolist(), strict=True):
                one[moment] = EarlyView(confidence=chance, signals=row)
        return found


def text_distances(encoder: Encoder, first: Sequence[str], second: Sequence[str]) -> Floats:
    """[n] 1 - cosine of the vectors of two texts each."""
    vectors = sentence_vectors(encoder, [canonical_text(text) for text in (*first, *second)]).astype(np.float64)
    distances: Floats = 1.0 - (vectors[: len(first)] * vectors[len(first) :]).sum(axis=1)
    return distances


def _check(*numbers: Floats) -> None:
    if not all(np.isfinite(one).all() for one in numbers):
        message = "the student says what is no number"
        raise ValueError(message)


def _before(asked: Asked, views: Mapping[Moment, EarlyView], moment: Moment) -> ChatOpinion:
    """An opinion of an answer that is not whole, and that nobody is told."""
    sure = views[moment].confidence
    return ChatOpinion(
        output="",
        confidence=sure,
        uncertainty=1.0 - sure,
        novelty=views["prompt"].signals[-1],
        members=[],
        finish_reason="length",
        tokens=[],
        logprobs=[],
        prompt_tokens=len(asked.ids),
        early=views,
    )


def _opinion(said: Generation, chance: float, signals: list[float], early: Mapping[Moment, EarlyView]) -> ChatOpinion:
    confidence = chance if said.finish_reason == "stop" else 0.0
    return ChatOpinion(
        output=said.text,
        confidence=confidence,
        uncertainty=1.0 - confidence,
        novelty=signals[SIGNALS.index("novelty")],
        members=[signals],
        finish_reason=said.finish_reason or "length",
        tokens=list(said.ids),
        logprobs=list(said.logprobs),
        prompt_tokens=len(said.asked.ids),
        early=early,
    )


def _early(arrays: Mapping[str, Floats], record: ChatRecord) -> Early | None:
    """How sure a version is before its answers are whole.

    Raises:
        CorruptVersionError: numbers are missing, or are none.
    """
    if not record.deciding_tokens:
        return None
    heads = {name: Confidence.read(arrays, name, len(signals)) for name, signals in EARLY_SIGNALS.items()}
    return Early(tokens=record.deciding_tokens, heads=heads)


def _keys(opened: Opened, name: str) -> list[str]:
    """A list of short names.

    Raises:
        CorruptVersionError: the file holds none.
    """
    try:
        return msgspec.json.decode(opened.read(name), type=list[str])
    except msgspec.MsgspecError as error:
        message = f"{name} is no list of answers: {error}"
        raise CorruptVersionError(message) from error


def _neighbours(opened: Opened, record: ChatRecord, hidden_size: int) -> Neighbours:
    """The training prompts that a version brings with it; `hidden_size` is the small encoder's.

    Raises:
        CorruptVersionError: their vectors and their answers do not fit together, or not the record.
    """
    vectors = read_tensors(NEIGHBOURS_VECTORS, opened.read(NEIGHBOURS_VECTORS)).get(NEIGHBOURS_TENSOR)
    answers = _keys(opened, NEIGHBOURS_NAME)
    openings = _keys(opened, OPENINGS_NAME) if record.deciding_tokens else []
    if len(openings) not in {0, len(answers)}:
        message = f"{len(openings)} openings of {len(answers)} answers"
        raise CorruptVersionError(message)
    if vectors is None or tuple(vectors.shape) != (len(answers), hidden_size) or len(answers) != record.neighbours:
        shape = None if vectors is None else tuple(vectors.shape)
        message = f"vectors {shape} of {record.neighbours} training prompts with {len(answers)} answers"
        raise CorruptVersionError(message)
    return Neighbours(vectors=vectors.float().numpy(), answers=answers, openings=openings)
