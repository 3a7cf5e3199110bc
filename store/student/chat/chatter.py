"""The chatting student: a conversation in, an answer out, with how sure it is and how new the question."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Final, Protocol, Self

import msgspec
import numpy as np

from store.errors import CorruptVersionError
from store.event import ChatInput, Message, TaskInput
from store.policy import Moment, Policy
from store.registry.students.records import ChatGolden, ChatRecord, StudentRecord
from store.student.chat.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, TUNED_NAME, Trained
from store.student.chat.decoder import Decoder, shared_decoder
from store.student.chat.generate import Asked, Batch, Generation, generate
from store.student.chat.neighbours import Neighbours
from store.student.chat.template import Template, TemplateRefusalError
from store.student.chat.trust import Confidence, Early, Trust
from store.student.chat.version import (
    BASE_FOLDER,
    GOLDEN_CONVERSATIONS,
    base_files,
    check_manifest,
    check_template,
    trained_for,
)
from store.student.classify import Opened
from store.student.encoder import Encoder, FloatArray, Precision
from store.student.folder import WEIGHTS_NAME
from store.student.loaded import ChatOpinion, SoFar
from store.tasks.chat import ChatRules, ChatTerms
from store.tasks.narrow import narrow

GOLDEN_TOLERANCE_SAME: Final = 0.005  # of a log-probability; fp32 on other hardware, in other batches or threads
GOLDEN_TOLERANCE_COARSE: Final = 0.2  # where one of the two computes in bf16
_GOLDEN_TOKENS: Final = 16
_LEAST_LOGPROB: Final = -6.0  # what is less likely than this is compared as if it were not
_GOLDEN_CHANCE: Final = 0.25  # another order of neighbours that are equally near may move a chance so far
_FARTHEST: Final = 2.0  # 1 - cosine
_RULES: Final = ChatRules()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chatter:
    """One version in memory. Immutable; several threads may ask it at once."""

    decoder: Decoder  # the base with what was trained
    base_fingerprint: str  # of the base alone
    trained: Trained
    encoder: Encoder  # the small one: novelty and neighbours
    neighbours: Neighbours
    confidence: Confidence
    terms: ChatTerms
    record: ChatRecord | None = None  # None: it is not a version yet
    policy: Policy | None = None
    early: Early | None = None  # None: it is sure of whole answers alone

    @staticmethod
    def load(opened: Opened, *, device: str = "auto", precision: Precision = "auto") -> "Chatter":
        """Build the student from a verified version; nothing but safetensors and JSON is read.

        Raises:
            CorruptVersionError: the files and the record do not fit together.
            SwapRefusedError: this release cannot run such a student here.
        """
        manifest = opened.manifest
        record = check_manifest(manifest)
        check_template(record, opened)
        base = shared_decoder(
            {name: manifest.files[BASE_FOLDER + name].sha256 for name in base_files(manifest)},
            lambda name: opened.read(BASE_FOLDER + name),
            lambda: opened.path(BASE_FOLDER + WEIGHTS_NAME),
            device=device,
            precision=precision,
        )
        if record.max_prompt_tokens >= base.longest:
            message = f"prompts of {record.max_prompt_tokens} tokens leave no room in a decoder for {base.longest}"
            raise CorruptVersionError(message)
        names = (TUNED_NAME,) if record.rank is None else (ADAPTER_CONFIG, ADAPTER_WEIGHTS)
        files = {name: opened.read(name) for name in names}
        trained = Trained.read(files, base.stack, layers=record.layers, rank=record.rank)
        trust = Trust.read(opened, record, device=device, precision=precision)
        return Chatter(
            decoder=trained.on(base),
            base_fingerprint=base.fingerprint,
            trained=trained,
            encoder=trust.encoder,
            neighbours=trust.neighbours,
            confidence=trust.confidence,
            early=trust.early,
            terms=ChatTerms(
                max_prompt_tokens=record.max_prompt_tokens,
                max_answer_tokens=record.max_answer_tokens,
            ),
            record=record,
            policy=manifest.policy,
        )

    @property
    def served_parameters(self) -> int:
        """How many distinct numbers are in service."""
        models = (self.decoder.model, self.encoder.model)
        heads = [self.confidence, *(self.early.heads.values() if self.early is not None else ())]
        own = self.neighbours.vectors.size + sum(3 * head.weight.size + 1 for head in heads)
        return int(own + sum(parameter.numel() for model in models for parameter in model.parameters()))

    @property
    def golden_tolerance(self) -> float:
        """The largest deviation of a log-probability that rounding explains."""
        made_in = self.record.precision if self.record is not None else None
        exact = made_in == self.decoder.precision == "fp32"
        return GOLDEN_TOLERANCE_SAME if exact else GOLDEN_TOLERANCE_COARSE

    @property
    def tuned_rows(self) -> int | None:
        """How many rows its decoder was last trained on."""
        return self.record.tuned_rows if self.record is not None else None

    def look(self, inputs: Sequence[TaskInput]) -> list[ChatOpinion]:
        """See `store.student.loaded.Loaded`; to a conversation that it cannot read it says nothing, and is not sure."""
        asked = [self.asked(value) for value in inputs]
        read = [place for place, one in enumerate(asked) if one is not None]
        said = generate(self.decoder, [one for one in asked if one is not None])
        found = dict(zip(read, self.opinions(said, self.vectors([inputs[place] for place in read])), strict=True))
        return [found.get(place) or _nothing() for place in range(len(inputs))]

    def growing(self) -> "ChatGrowing":
        """See `store.student.loaded.Grows`."""
        return ChatGrowing(self)

    def asked(self, value: TaskInput) -> Asked | None:
        """What its decoder is asked; None: this student cannot answer such a conversation."""
        return asked_of(self.decoder, chat_of(value), self.terms)

    @property
    def trust(self) -> Trust:
        """What its answers are judged by."""
        return Trust(encoder=self.encoder, neighbours=self.neighbours, confidence=self.confidence, early=self.early)

    @property
    def moments(self) -> Sequence[Moment]:
        """See `store.student.loaded.Foretells`."""
        return self.trust.moments

    def expect(self, inputs: Sequence[TaskInput]) -> list[ChatOpinion]:
        """See `store.student.loaded.Foretells`."""
        asked = [one for value in inputs if (one := self.asked(value)) is not None]
        if len(asked) != len(inputs):
            message = "a conversation that this student cannot read"
            raise ValueError(message)
        return self.trust.expect(asked, self.vectors(inputs))

    def distance(self, first: str, second: str) -> float:
        """See `store.student.loaded.Compares`."""
        return self.trust.distance(first, second)

    def vectors(self, inputs: Sequence[TaskInput]) -> FloatArray:
        """See `Trust`."""
        return self.trust.vectors(inputs)

    def opinions(self, said: Sequence[Generation], vectors: FloatArray) -> list[ChatOpinion]:
        """See `Trust`."""
        return self.trust.opinions(said, vectors)

    def supports(self, value: TaskInput) -> bool:
        """See `store.student.loaded.Selects`."""
        return trained_for(self.record, chat_of(value))

    def too_long(self, value: TaskInput) -> bool:
        """Whether the student cannot read all of it: it is too long, or of a form that its template does not take."""
        return self.asked(value) is None

    def tokens(self, value: TaskInput) -> int:
        """How many tokens its prompt has; 1 for one that is not read."""
        asked = self.asked(value)
        return 1 if asked is None else len(asked.ids)

    def with_policy(self, policy: Policy | None) -> Self:
        """The same student under another policy."""
        return replace(self, policy=policy)

    def golden_outputs(self) -> list[ChatGolden]:
        """Neutral conversations, nobody's data, with what this student says to them."""
        asked = [self._golden_asked(one) for one in GOLDEN_CONVERSATIONS]
        said = generate(self.decoder, asked)
        scores = self.decoder.teacher_forced([one.ids for one in asked], [one.ids for one in said])
        views = self._golden_views(GOLDEN_CONVERSATIONS, said)
        return [
            ChatGolden(messages=list(messages), text=one.text, tokens=list(one.ids), logprobs=logprobs, early=view)
            for messages, one, logprobs, view in zip(GOLDEN_CONVERSATIONS, said, scores.logprobs, views, strict=True)
        ]

    def _golden_views(
        self, conversations: Sequence[Sequence[Message]], said: Sequence[Generation]
    ) -> list[dict[Moment, float]]:
        """How sure it was of each before it had answered."""
        vectors = self.vectors([ChatInput(messages=list(messages)) for messages in conversations])
        found = self.opinions(said, vectors)
        return [{moment: view.confidence for moment, view in one.early.items()} for one in found]

    def told(self, record: StudentRecord) -> StudentRecord:
        """A record with the golden outputs of this very student.

        Raises:
            TypeError: it is another task's.
        """
        if not isinstance(record, ChatRecord):
            message = f"a record of {record.task} for a student of chat"
            raise TypeError(message)
        return msgspec.structs.replace(record, golden=self.golden_outputs(), precision=self.decoder.precision)

    def check_golden(self) -> float:
        """The largest deviation from the log-probabilities that the trainer saw; infinite where one is no number.

        Where the student would now say something else, it is by how much it likes that better.
        """
        golden = self.record.golden if self.record is not None else []
        asked = [self._golden_asked(one.messages) for one in golden]
        found = self.decoder.teacher_forced([one.ids for one in asked], [one.tokens for one in golden])
        try:
            said = generate(self.decoder, asked)
        except ValueError:
            return float("inf")
        deviations = [0.0]
        for one, logprobs, now in zip(golden, found.logprobs, said, strict=True):
            off = np.subtract(np.maximum(logprobs, _LEAST_LOGPROB), np.maximum(one.logprobs, _LEAST_LOGPROB))
            deviations += np.abs(off).tolist()
            if now.ids != one.tokens:
                deviations.append(_parting(one.tokens, logprobs, now))
        if any(one.early for one in golden):
            views = self._golden_views([one.messages for one in golden], said)
            for one, view in zip(golden, views, strict=True):
                off_most = max((abs(view.get(name, inf) - sure) for name, sure in one.early.items()), default=0.0)
                if not off_most <= _GOLDEN_CHANCE:
                    return inf
        return max(deviations) if np.isfinite(deviations).all() else float("inf")

    def check_follows(self, serving: Self | None, *, removal_declared: bool) -> None:
        """See `store.student.loaded.Loaded`: another decoder changes no client's request."""

    def _golden_asked(self, messages: Sequence[Message]) -> Asked:
        ids = self.decoder.template.render([msgspec.to_builtins(message) for message in messages])
        return Asked(ids, _GOLDEN_TOKENS)


class ChatGrowing:
    """Satisfies `store.student.loaded.Growing`."""

    def __init__(self, chatter: Chatter) -> None:
        self._chatter = chatter
        self._batch = Batch(chatter.decoder)
        self._vectors: dict[Generation, FloatArray] = {}  # [hidden] of the conversation, of each that is here
        self._early: list[Generation] = []  # done with their first token

    def __len__(self) -> int:
        """See `Growing`."""
        return len(self._vectors)

    def add(self, inputs: Sequence[TaskInput]) -> list[Generation]:
        """See `Growing`.

        Raises:
            ValueError: a number is not finite, or an input is one that `too_long` refuses.
        """
        asked = [one for value in inputs if (one := self._chatter.asked(value)) is not None]
        if len(asked) != len(inputs):
            message = "a conversation that this student cannot read"
            raise ValueError(message)
        if not inputs:
            return []
        vectors = self._chatter.vectors(inputs)
        begun = self._batch.add(asked)
        self._vectors |= zip(begun, vectors, strict=True)
        self._early += [one for one in begun if one.finish_reason is not None]
        return begun

    def step(self) -> list[tuple[Hashable, ChatOpinion]]:
        """See `Growing`."""
        done, self._early = [*self._early, *self._batch.step()], []
        if not done:
            return []
        opinions = self._chatter.opinions(done, np.stack([self._vectors.pop(one) for one in done]))
        return list(zip(done, opinions, strict=True))

    def so_far(self, name: Hashable, *, viewed: bool) -> SoFar:
        """See `Growing`."""
        if not isinstance(name, Generation) or name not in self._vectors:
            message = "no such answer grows here"
            raise KeyError(message)
        text = self._chatter.decoder.template.text_of(name.ids)
        view = None if viewed else self._chatter.trust.opening(name, self._vectors[name])
        return SoFar(text=text, view=view)

    def drop(self, name: Hashable) -> None:
        """See `Growing`."""
        if isinstance(name, Generation) and self._vectors.pop(name, None) is not None:
            self._batch.drop(name)
            self._early = [one for one in self._early if one is not name]


class Reads(Protocol):
    """A decoder as far as its prompts go: one that is here, or one that a server elsewhere runs."""

    @property
    def template(self) -> Template:
        """Its tokenizer and chat template."""

    @property
    def longest(self) -> int:
        """How many tokens, prompt and answer together, it was made for."""


def asked_of(decoder: Reads, value: ChatInput, terms: ChatTerms) -> Asked | None:
    """What a decoder is asked; None where no student on it may answer.

    That is so where the answer would be more than a text, or several; where the prompt is too long; and where the chat
    template does not take the messages.
    """
    shape = value.shape
    if shape.get("tools") or shape.get("functions") or shape.get("n", 1) != 1:
        return None
    try:
        ids = decoder.template.render([msgspec.to_builtins(message) for message in value.messages])
    except TemplateRefusalError:
        return None
    wanted = [shape[name] for name in ("max_tokens", "max_completion_tokens") if isinstance(shape.get(name), int)]
    limit = min(terms.max_answer_tokens, decoder.longest - len(ids), *wanted)
    if len(ids) > terms.max_prompt_tokens or limit < 1:
        return None
    stops = shape.get("stop") or ()
    return Asked(ids, limit, (stops,) if isinstance(stops, str) else tuple(stops))


def chat_of(value: TaskInput) -> ChatInput:
    """An input of `chat`.

    Raises:
        TypeError: it is another task's.
    """
    return narrow(value, ChatInput, "a student of chat")


def _nothing() -> ChatOpinion:
    return ChatOpinion(
        output="",
        confidence=0.0,
        uncertainty=1.0,
        novelty=_FARTHEST,
        members=[[0.0, 0.0, 0.0, _FARTHEST]],
        finish_reason="length",
        tokens=[],
        logprobs=[],
        prompt_tokens=0,
    )


def _parting(ids: Sequence[int], logprobs: Sequence[float], now: Generation) -> float:
    """By how much an answer's first other token is likelier than the one that stood there."""
    for wanted, before, token, likelier in zip(ids, logprobs, now.ids, now.logprobs, strict=False):
        if wanted != token:
            return likelier - before
    return float("inf")
