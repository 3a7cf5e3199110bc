"""Labels: what a teacher's text says, and which label map may follow which.

An answer is parsed to one label of the lane's list or to an error, never to a guess: an answer off the list is never
trained on.
"""

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from store.errors import InvalidAnswerError, SwapRefusedError

AnswerFormat = Literal["text", "json"]

_QUOTES: Final = "\"'`“”‘’«»"  # noqa: RUF001 - the typographic ones, too


class _LabelObject(msgspec.Struct):
    label: str


def parse_label(answer: str, labels: Sequence[str], *, answer_format: AnswerFormat = "text") -> str:
    """The one label that a teacher's answer names.

    White space, quotes around the answer and a full stop at its end are ignored. An exact match wins; otherwise case
    is ignored, as long as one label alone matches.

    Args:
        answer: what the teacher wrote.
        labels: the lane's list.
        answer_format: `text` is the label alone; `json` is an object with the field `label`, in a code fence or not.

    Raises:
        InvalidAnswerError: the answer names none of the labels, or more than one. Its message does not quote the
            answer, in which a teacher may repeat the question.
    """
    said = _label_field(answer) if answer_format == "json" else answer
    spoken = _bare(said)
    if spoken in labels:
        return spoken
    matches = [label for label in labels if _bare(label).casefold() == spoken.casefold()]
    if len(matches) == 1:
        return matches[0]
    problem = "names more than one label" if matches else "is not on the list of labels"
    message = f"the teacher's answer ({len(answer)} characters) {problem}"
    raise InvalidAnswerError(message)


def check_label_map(serving: Sequence[str], offered: Sequence[str], *, removal_declared: bool) -> None:
    """See that a version's label map may follow the serving one: the old order kept, new labels at the end.

    Args:
        serving: the label map in service; empty while the lane is cold.
        offered: the label map that would replace it.
        removal_declared: a person moved the lane back to a version that knows fewer labels.

    Raises:
        SwapRefusedError: labels changed places, occur twice, or are missing without anybody's having said so.
    """
    if len(set(offered)) != len(offered):
        message = "the offered label map holds a label twice"
        raise SwapRefusedError(message)
    for index, (old, new) in enumerate(zip(serving, offered, strict=False)):
        if old != new:
            message = f"label {index} was {old!r} and would become {new!r}: train with the old order kept"
            raise SwapRefusedError(message)
    missing = serving[len(offered) :]
    if missing and not removal_declared:
        message = f"labels {', '.join(map(repr, missing))} would be removed: roll back to the version by hand if meant"
        raise SwapRefusedError(message)


def _label_field(answer: str) -> str:
    """The `label` of a JSON object that may stand in a Markdown code fence."""
    body = answer.strip()
    if body.startswith("```"):
        body = body.removeprefix("```").removeprefix("json").removesuffix("```")
    try:
        return msgspec.json.decode(body.encode(), type=_LabelObject).label
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError) as error:
        message = f"the teacher's answer ({len(answer)} characters) is not a JSON object with the field label"
        raise InvalidAnswerError(message) from error


def _bare(text: str) -> str:
    """Without surrounding white space, quotes and one trailing full stop, in whichever order they stand."""
    previous = None
    while previous != text:
        previous = text
        text = text.strip().strip(_QUOTES).strip()
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1]
    return text
