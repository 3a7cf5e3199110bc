"""The chatting student: a decoder with what was trained, and how sure it is of what it says."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Self

import msgspec
import numpy as np

from store.errors import CorruptVersionError
from store.event import ChatInput, Message, TaskInput
from store.policy import Policy
from store.registry.students.records import ChatGolden, ChatRecord, StudentRecord
from store.student.chat.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, TUNED_NAME, Trained
from store.student.chat.confidence import SIGNALS, Confidence, answer_signals
from store.student.chat.decoder import Decoder, shared_decoder
from store.student.chat.folder import BASE_FILES, GENERATION_NAME
from store.student.chat.generate import Asked, Generation, generate
from store.student.chat.neighbours import Neighbours
from store.student.chat.template import TemplateRefusalError
from store.student.classify import ENCODER_FOLDER, Opened
from store.student.encoder import Encoder, FloatArray, Precision, read_tensors, shared_encoder
from store.student.folder import ENCODER_FILES, WEIGHTS_NAME
from store.student.loaded import ChatOpinion
from store.student.rank.vectors import sentence_vectors
from store.tasks.chat import ChatRules, ChatTerms

BASE_FOLDER: Final = "base/"
CONFIDENCE_NAME: Final = "confidence.safetensors"
NEIGHBOURS_NAME: Final = "neighbours.json"
NEIGHBOURS_VECTORS: Final = "neighbours.safetensors"
NEIGHBOURS_TENSOR: Final = "vectors"
GOLDEN_PROMPTS: Final = ("Say hello.", "What is 12 + 30?", "Name a colour.")
_GOLDEN_TOKENS: Final = 12
_RULES: Final = ChatRules()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chatter:
    """One version in memory."""

    decoder: Decoder
    base_fingerprint: str
    trained: Trained
    encoder: Encoder
    neighbours: Neighbours
    confidence: Confidence
    terms: ChatTerms
    record: ChatRecord | None = None
    policy: Policy | None = None

    @staticmethod
    def load(opened: Opened, *, device: str = "auto", precision: Precision = "auto") -> "Chatter":
        record = opened.manifest.student
        if not isinstance(record, ChatRecord):
            message = f"a version of {record.task} was taken for one of chat"
            raise CorruptVersionError(message)
        files = opened.manifest.files
        names = [*BASE_FILES, *([GENERATION_NAME] if BASE_FOLDER + GENERATION_NAME in files else [])]
        base = shared_decoder(
            {name: files[BASE_FOLDER + name].sha256 for name in names},
            lambda name: opened.read(BASE_FOLDER + name),
            lambda: opened.read(BASE_FOLDER + WEIGHTS_NAME),
            device=device,
            precision=precision,
        )
        if record.rank is None:
            trained = Trained(
                first=base.stack.layers - record.layers,
                rank=None,
                alpha=0,
                tensors=read_tensors(TUNED_NAME, opened.read(TUNED_NAME)),
            )
        else:
            trained = Trained(
                first=base.stack.layers - record.layers,
                rank=record.rank,
                alpha=json.loads(opened.read(ADAPTER_CONFIG))["lora_alpha"],
                tensors=read_tensors(ADAPTER_WEIGHTS, opened.read(ADAPTER_WEIGHTS)),
            )
        encoder = shared_encoder(
            {name: files[ENCODER_FOLDER + name].sha256 for name in ENCODER_FILES},
            lambda name: opened.read(ENCODER_FOLDER + name),
            device=device,
            precision=precision,
            max_tokens=opened.manifest.preprocessing.max_tokens,
        )
        arrays = {k: v.numpy() for k, v in read_tensors(CONFIDENCE_NAME, opened.read(CONFIDENCE_NAME)).items()}
        vectors = read_tensors(NEIGHBOURS_VECTORS, opened.read(NEIGHBOURS_VECTORS))[NEIGHBOURS_TENSOR]
        return Chatter(
            decoder=trained.on(base),
            base_fingerprint=base.fingerprint,
            trained=trained,
            encoder=encoder,
            neighbours=Neighbours(vectors=vectors.float().numpy(), answers=json.loads(opened.read(NEIGHBOURS_NAME))),
            confidence=Confidence.read(arrays, record.decide, len(record.signals)),
            terms=ChatTerms(
                decide=record.decide,
                max_prompt_tokens=record.max_prompt_tokens,
                max_answer_tokens=record.max_answer_tokens,
            ),
            record=record,
            policy=opened.manifest.policy,
        )

    @property
    def served_parameters(self) -> int:
        own = sum(one.numel() for one in self.trained.tensors.values())
        return own + sum(one.numel() for one in self.decoder.model.parameters()) + self.neighbours.vectors.size

    @property
    def golden_tolerance(self) -> float:
        return 1e-3

    @property
    def tuned_rows(self) -> int | None:
        return self.record.tuned_rows if self.record is not None else None

    def look(self, inputs: Sequence[TaskInput]) -> list[ChatOpinion]:
        asked = [asked_of(self.decoder, chat_of(value), self.terms) for value in inputs]
        if any(one is None for one in asked):
            message = "a conversation that this student cannot read"
            raise ValueError(message)
        said = generate(self.decoder, [one for one in asked if one is not None])
        vectors = sentence_vectors(self.encoder, [_RULES.words(value) for value in inputs])
        return self.opinions(said, vectors)

    def opinions(self, said: Sequence[Generation], vectors: FloatArray) -> list[ChatOpinion]:
        if not said:
            return []
        equal = self.neighbours.equal(vectors, [one.text for one in said])
        novelty = self.neighbours.novelty(vectors)
        signals = np.array(
            [[*answer_signals(one.logprobs), e, n] for one, e, n in zip(said, equal, novelty, strict=True)]
        )
        sure = self.confidence.of(signals)
        return [
            ChatOpinion(
                output=one.text,
                confidence=float(chance),
                uncertainty=1.0 - float(chance),
                novelty=float(far),
                members=[row.tolist()],
                finish_reason=one.finish_reason or "length",
                tokens=list(one.ids),
                logprobs=list(one.logprobs),
                prompt_tokens=len(one.asked.ids),
            )
            for one, chance, far, row in zip(said, sure, novelty, signals, strict=True)
        ]

    def too_long(self, value: TaskInput) -> bool:
        return asked_of(self.decoder, chat_of(value), self.terms) is None

    def tokens(self, value: TaskInput) -> int:
        return len(self.decoder.template.render(msgspec.to_builtins(chat_of(value).messages)))

    def with_policy(self, policy: Policy | None) -> Self:
        return replace(self, policy=policy)

    def told(self, record: StudentRecord) -> StudentRecord:
        if not isinstance(record, ChatRecord):
            message = f"a record of {record.task} for a student of chat"
            raise TypeError(message)
        return msgspec.structs.replace(record, golden=self._golden(), precision=self.decoder.precision)

    def check_golden(self) -> float:
        worst = 0.0
        for was, one in zip(self.record.golden if self.record else [], self._golden(), strict=True):
            if was.text != one.text:
                return float("inf")
            worst = max(worst, float(np.abs(np.subtract(was.logprobs, one.logprobs)).max(initial=0.0)))
        return worst

    def check_follows(self, serving: Self | None, *, removal_declared: bool) -> None:
        pass

    def _golden(self) -> list[ChatGolden]:
        prompts = [[Message(role="user", content=text)] for text in GOLDEN_PROMPTS]
        asked = [Asked(ids=self.decoder.template.render(msgspec.to_builtins(one)), limit=_GOLDEN_TOKENS) for one in prompts]
        return [
            ChatGolden(messages=one, text=said.text, logprobs=said.logprobs)
            for one, said in zip(prompts, generate(self.decoder, asked), strict=True)
        ]


def asked_of(decoder: Decoder, value: ChatInput, terms: ChatTerms) -> Asked | None:
    """What a decoder is asked; None where no student may answer."""
    if value.shape.get("tools") or value.shape.get("functions") or value.shape.get("n", 1) != 1:
        return None
    try:
        ids = decoder.template.render(msgspec.to_builtins(value.messages))
    except TemplateRefusalError:
        return None
    if len(ids) > terms.max_prompt_tokens:
        return None
    return Asked(ids=ids, limit=terms.max_answer_tokens)


def chat_of(value: TaskInput) -> ChatInput:
    if not isinstance(value, ChatInput):
        message = f"a student of chat was handed a {type(value).__name__}"
        raise TypeError(message)
    return value
