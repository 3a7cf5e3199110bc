"""Classification as its clients see it: `POST /classify`, in the shape of vLLM and SGLang."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

import msgspec

from serve.escalation import Answer, Common, Given, Refusal
from serve.front.errors import INVALID
from serve.settings import LaneSettings
from serve.tasks.balance import Balance
from serve.tasks.face import Asked, Heed, Kept, RequestLimits, decode_body, invalid, told_of
from store.event import ClassifyEscalation, LabelAnswer, TaskInput, TeacherAnswer, TextInput
from store.student.loaded import LabelOpinion, Opinion


class ClassifyRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST /classify`, in vLLM's shape; fields that we do not know are ignored."""

    model: str  # the use case
    input: str | list[str]
    user: str | None = None  # the subject, for erasure; kept as a keyed token


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledAnswer(Answer):
    """What the client gets for one text."""

    label: str
    probs: list[float] | None  # the student's, in its label order; None where the teacher answered
    num_classes: int
    labels: tuple[str, ...] | None = None  # of `probs`; also None where an earlier release kept the answer


class Classify:
    """Satisfies `Face`."""

    paths: Final = ("/classify", "/v1/classify")
    event_type: Final = ClassifyEscalation
    invalid_status: Final = INVALID
    answer_type: Final = LabelledAnswer
    sample: Final[TaskInput] = TextInput(text="This is a test question.")

    def decode(self, body: bytes) -> Asked:
        """See `Face`."""
        found = decode_body(body, ClassifyRequest)
        one = isinstance(found.input, str)
        texts = [found.input] if isinstance(found.input, str) else found.input
        fields = ["input"] if one else [f"input[{index}]" for index in range(len(texts))]
        return Asked(
            model=found.model,
            user=found.user,
            values=[TextInput(text=text) for text in texts],
            fields=fields,
            listed=not one,
            identity=[found.model, found.input, found.user],
        )

    def check(self, asked: Asked, limits: RequestLimits) -> None:
        """See `Face`."""
        if not 1 <= len(asked.values) <= limits.max_inputs:
            raise invalid(field="input", message=f"{len(asked.values)} texts, 1 to {limits.max_inputs} allowed")
        for value, field in zip(asked.values, asked.fields, strict=True):
            text = cast("TextInput", value).text
            if not text.strip():
                raise invalid(field=field, message="an empty text")
            if len(text) > limits.max_text_chars:
                raise invalid(field=field, message=f"{len(text)} characters, {limits.max_text_chars} allowed")

    def body(self, asked: Asked, given: Given) -> dict[str, Any]:
        """Vllm's shape with our fields added; a text that nobody could answer has `error`."""
        answers = [one for one in given.found if isinstance(one, Answer)]
        tokens = [sum(one.usage.prompt_tokens for one in answers), sum(one.usage.completion_tokens for one in answers)]
        return {
            "id": f"classify-{given.first_id}",
            "object": "list",
            "created": int(given.at_s),
            "model": asked.model,
            "data": [_datum(index, one) for index, one in enumerate(given.found)],
            "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)},
        }

    def of_texts(self, value: TaskInput, texts: Sequence[str]) -> TaskInput:  # noqa: ARG002 - it is all text
        """See `Matter`."""
        return TextInput(text=texts[0])

    def portions(self, value: TaskInput, count: int) -> Sequence[TaskInput]:  # noqa: ARG002
        """See `Matter`: a text is read whole."""
        return ()

    def heed(self, settings: LaneSettings) -> Heed:
        """See `Face`."""
        balance = Balance() if settings.metric == "balanced_accuracy" else None
        allowed = settings.terms.labels

        def heeded(opinion: Opinion, _: TaskInput) -> Opinion | None:
            label = on_list(cast("LabelOpinion", opinion), allowed)
            if label is None or balance is None:
                return label
            return on_list(balance.weigh(label), allowed)

        return heeded

    def of_student(self, opinion: Opinion, common: Common, noted: Mapping[str, str]) -> Answer:  # noqa: ARG002 - it holds no text
        """See `Face`."""
        said = cast("LabelOpinion", opinion)
        return LabelledAnswer(
            label=said.output, probs=said.probs, labels=said.labels, num_classes=len(said.probs), **common
        )

    def of_teacher(
        self,
        answer: TeacherAnswer,
        value: TaskInput,  # noqa: ARG002 - a label is one whatever the text
        settings: LaneSettings,
        common: Common,
    ) -> Answer:
        """See `Face`."""
        label = cast("LabelAnswer", answer).label
        return LabelledAnswer(label=label, probs=None, num_classes=len(settings.terms.labels), **common)

    def kept(self, value: TaskInput, answer: TeacherAnswer) -> Kept:  # noqa: ARG002 - as the protocol has it
        """See `Face`."""
        return Kept(answer=answer, learnable=True)


def on_list(opinion: LabelOpinion, allowed: Sequence[str]) -> LabelOpinion | None:
    """The opinion among the labels that the lane allows today; None where the version knows none of them.

    A label that was taken off the list keeps its place in the version's map, and is never an answer.
    """
    if opinion.output in allowed:
        return opinion
    places = [place for place, label in enumerate(opinion.labels) if label in allowed]
    if not places:
        return None
    best = max(places, key=lambda place: opinion.probs[place])
    return replace(opinion, output=opinion.labels[best], confidence=opinion.probs[best])


def _datum(index: int, one: Answer | Refusal) -> dict[str, Any]:
    if isinstance(one, Refusal):
        return {"index": index, "label": None, "error": {"code": one.code, "message": one.message}}
    said = cast("LabelledAnswer", one)
    return {
        "index": index,
        "label": said.label,
        "probs": said.probs,
        "labels": said.labels,
        "num_classes": said.num_classes,
        **told_of(said),
    }
