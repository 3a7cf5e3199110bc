"""Classification as its clients see it: `POST /classify`, in the shape of vLLM and SGLang."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, Literal, TypedDict, cast

import msgspec

from serve.escalation import Answer, Common, Given, Refusal
from serve.front.errors import INVALID
from serve.openapi.operation import SCHEMAS, Model, Operation, Text, User
from serve.settings import LaneSettings
from serve.tasks.balance import Balance
from serve.tasks.face import (
    AT_THE_END,
    Asked,
    Heed,
    Kept,
    RequestLimits,
    Timing,
    Tokens,
    Told,
    decode_body,
    invalid,
    tokens_of,
    told_of,
)
from store.event import ClassifyEscalation, LabelAnswer, TaskInput, TeacherAnswer, TextInput
from store.student.loaded import LabelOpinion, Opinion

_TEXTS: Final = msgspec.Meta(extra_json_schema={"minItems": 1, "maxItems": "max_inputs"})


class ClassifyRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST /classify`, in vLLM's shape; fields that we do not know are ignored."""

    model: Model
    input: Annotated[Text | Annotated[list[Text], _TEXTS], msgspec.Meta(description="A text, or a list of texts.")]
    user: User = None


class Labelled(Told):
    """A text's label, and the student's probabilities of `labels`: null where the teacher answered."""

    index: int
    label: str
    probs: list[float] | None
    labels: list[str] | None
    num_classes: int


class Cause(TypedDict):
    """Why nobody answered."""

    code: str
    message: str


class Unlabelled(TypedDict):
    """A text that nobody could label, where others of its list were."""

    index: int
    label: None
    error: Cause


_DATA: Final = msgspec.Meta(
    extra_json_schema={"items": {"anyOf": [{"$ref": f"{SCHEMAS}{kind.__name__}"} for kind in (Labelled, Unlabelled)]}}
)


class Classification(TypedDict):
    """The answer to a request to classify: one object a text, in their order."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: Annotated[list[Any], _DATA]
    usage: Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledAnswer(Answer):
    """What the client gets for one text."""

    label: str
    probs: list[float] | None  # the student's, in its label order; None where the teacher answered
    num_classes: int
    labels: tuple[str, ...] | None = None  # of `probs`; also None where an earlier release kept the answer


_OPERATION: Final = Operation(
    summary="Label a text, or each text of a list",
    description="For lanes of `classify`, in the shape of vLLM and SGLang. Fields that are not known are ignored. Of "
    "a list, texts that nobody could label have `error`.",
    asked=ClassifyRequest,
    answered=Classification,
    named=(Labelled, Unlabelled),
    example={"model": "support", "input": "where is my parcel?"},
    answer={
        "id": "classify-019ad4c0-8f3e-7c55-a0f4-5f7d1c2b3a49",
        "object": "list",
        "created": 1772359200,
        "model": "support",
        "data": [
            {
                "index": 0,
                "label": "delivery",
                "probs": [0.02, 0.97, 0.01],
                "labels": ["refund", "delivery", "other"],
                "num_classes": 3,
                "served_by": "student",
                "reason": None,
                "version": "3f2a9c",
                "event_id": None,
                "propensity": 0.02,
                "withheld": False,
                "degraded": None,
            }
        ],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    },
)


class Classify:
    """Satisfies `Face`."""

    paths: Final = ("/classify", "/v1/classify")
    operation: Final = _OPERATION
    event_type: Final = ClassifyEscalation
    invalid_status: Final = INVALID
    answer_type: Final = LabelledAnswer
    sample: Final[TaskInput] = TextInput(text="This is a test question.")

    def decode(self, body: bytes, lane: LaneSettings) -> Asked:  # noqa: ARG002 - as the protocol has it
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
        check_texts(asked, limits)

    def body(self, asked: Asked, given: Given) -> Classification:
        """Vllm's shape with our fields added; a text that nobody could answer has `error`."""
        return {
            "id": f"classify-{given.first_id}",
            "object": "list",
            "created": int(given.at_s),
            "model": asked.model,
            "data": [_datum(index, one) for index, one in enumerate(given.found)],
            "usage": tokens_of(*(one.usage for one in given.found if isinstance(one, Answer))),
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

    def timing(self, asked: Asked, settings: LaneSettings) -> Timing:  # noqa: ARG002 - as the protocol has it
        """See `Face`: a student says all at once."""
        return AT_THE_END

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


def check_texts(asked: Asked, limits: RequestLimits) -> None:
    """See that each text can be read.

    Raises:
        ApiError: 422, naming the field.
    """
    for value, field in zip(asked.values, asked.fields, strict=True):
        text = cast("TextInput", value).text
        if not text.strip():
            raise invalid(field=field, message="an empty text")
        if len(text) > limits.max_text_chars:
            raise invalid(field=field, message=f"{len(text)} characters, {limits.max_text_chars} allowed")


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


def _datum(index: int, one: Answer | Refusal) -> Labelled | Unlabelled:
    if isinstance(one, Refusal):
        return {"index": index, "label": None, "error": {"code": one.code, "message": one.message}}
    said = cast("LabelledAnswer", one)
    return {
        "index": index,
        "label": said.label,
        "probs": said.probs,
        "labels": None if said.labels is None else list(said.labels),
        "num_classes": said.num_classes,
        **told_of(said),
    }
