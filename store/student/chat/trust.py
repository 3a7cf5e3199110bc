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
from store.registry.students.records import ChatRecord
from store.student.chat.generate import Generation
from store.student.chat.neighbours import Neighbours
from store.student.classify import ENCODER_FOLDER, Opened
from store.student.encoder import Encoder, FloatArray, Precision, read_tensors, shared_encoder
from store.student.folder import ENCODER_FILES
from store.student.loaded import ChatOpinion
from store.student.rank.vectors import sentence_vectors
from store.tasks.chat import ChatRules

Floats = npt.NDArray[np.float64]

SIGNALS: Final = ("sum_logprob", "least_prob", "neighbours_equal", "novelty")
"""Of the answer: the sum of its tokens' log-probabilities, and the least of their probabilities. Of both: the share of
the nearest training prompts whose answer is the student's. Of the question: its distance to the nearest of them."""
CONFIDENCE_NAME: Final = "confidence.safetensors"
NEIGHBOURS_NAME: Final = "neighbours.json"
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


def answer_signals(logprobs: Sequence[float]) -> tuple[float, float]:
    """The sum of an answer's log-probabilities, and the least probability of its tokens."""
    return float(np.sum(logprobs)), float(np.exp(np.min(logprobs)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trust:
    """What a version brings with it to judge its answers by."""

    encoder: Encoder  # the small one: novelty and neighbours
    neighbours: Neighbours
    confidence: Confidence

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
            confidence=Confidence.read(arrays, record.decide, len(record.signals)),
        )

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
        if not np.isfinite(signals).all() or not np.isfinite(chances).all():
            message = "the student says what is no number"
            raise ValueError(message)
        return [
            _opinion(one, float(chance), row.tolist()) for one, chance, row in zip(said, chances, signals, strict=True)
        ]


def text_distances(encoder: Encoder, first: Sequence[str], second: Sequence[str]) -> Floats:
    """[n] 1 - cosine of the vectors of two texts each."""
    vectors = sentence_vectors(encoder, [canonical_text(text) for text in (*first, *second)]).astype(np.float64)
    distances: Floats = 1.0 - (vectors[: len(first)] * vectors[len(first) :]).sum(axis=1)
    return distances


def _opinion(said: Generation, chance: float, signals: list[float]) -> ChatOpinion:
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
    )


def _neighbours(opened: Opened, record: ChatRecord, hidden_size: int) -> Neighbours:
    """The training prompts that a version brings with it; `hidden_size` is the small encoder's.

    Raises:
        CorruptVersionError: their vectors and their answers do not fit together, or not the record.
    """
    vectors = read_tensors(NEIGHBOURS_VECTORS, opened.read(NEIGHBOURS_VECTORS)).get(NEIGHBOURS_TENSOR)
    try:
        answers = msgspec.json.decode(opened.read(NEIGHBOURS_NAME), type=list[str])
    except msgspec.MsgspecError as error:
        message = f"{NEIGHBOURS_NAME} is no list of answers: {error}"
        raise CorruptVersionError(message) from error
    if vectors is None or tuple(vectors.shape) != (len(answers), hidden_size) or len(answers) != record.neighbours:
        shape = None if vectors is None else tuple(vectors.shape)
        message = f"vectors {shape} of {record.neighbours} training prompts with {len(answers)} answers"
        raise CorruptVersionError(message)
    return Neighbours(vectors=vectors.float().numpy(), answers=answers)
