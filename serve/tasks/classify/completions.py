"""A lane of labels as OpenAI's chat completions: who asks a language model for a label today asks the lane so.

The text is what the client filled the lane's prompt with, or else its last message. The answer's content is the label.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import msgspec

from serve.completions.answer import EXAMPLE, Chunk, Completion, choice_of, streamed, whole
from serve.completions.request import INVALID_STATUS, PATH, CompletionRequest, has_parts, text_of
from serve.escalation import Given
from serve.openapi.operation import Operation
from serve.settings import LaneSettings
from serve.tasks.classify.face import LabelledAnswer, check_texts
from serve.tasks.classify.shape import contents, unsupported
from serve.tasks.classify.template import Prompt, prompt_of
from serve.tasks.face import Asked, RequestLimits, decode_body
from store.event import TextInput

_USER: Final = "user"
_TURNS: Final = frozenset({"system", "developer", _USER, "assistant"})
_AS_SCHEMA: Final = "ask for an object with response_format json_schema instead, or leave it out"
ReadFrom = Literal["prompt", "message"]


class LabelRequest(CompletionRequest, frozen=True, kw_only=True):
    """The fields that we read; what does not change which label is the answer is not looked at."""

    tools: list[Any] | None = None
    tool_choice: Any = None
    functions: list[Any] | None = None
    function_call: Any = None
    response_format: Any = None
    stop: str | list[str] | None = None
    logit_bias: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """What of a request its answer is made with."""

    contents: Mapping[str, str]  # by label
    read_from: ReadFrom


_OPERATION: Final = Operation(
    summary="A text's label as the assistant's message",
    description="For lanes of `classify`: the text is what the lane's prompt was filled with, or the last message of "
    "the user. What a label cannot be told by is 400.",
    asked=LabelRequest,
    answered=Completion,
    chunk=Chunk,
    example={"model": "support", "messages": [{"role": "user", "content": "where is my parcel?"}]},
    answer={
        **EXAMPLE,
        "model": "support",
        "choices": [choice_of("delivery")],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        "understudy": {**EXAMPLE["understudy"], "read_from": "message"},
    },
)


class LabelCompletions:
    """Satisfies `Form`."""

    paths: Final = (PATH,)
    operation: Final = _OPERATION
    invalid_status: Final = INVALID_STATUS

    def decode(self, body: bytes, lane: LaneSettings) -> Asked:
        """See `Form`: 400 where something else than a label is wanted."""
        found = decode_body(body, LabelRequest)
        _check_wanted(found)
        texts = contents(found.response_format, lane.terms.labels)
        _check_stops(found.stop, texts)
        place, text, read_from = _asked(found.messages, lane)
        return Asked(
            model=found.model,
            user=found.user,
            values=[TextInput(text=text)],
            fields=[f"messages[{place}].content"],
            listed=False,
            identity=["classify as chat", msgspec.json.decode(body)],
            streaming=found.streaming(self.chunks),
            shown=_Shown(contents=texts, read_from=read_from),
        )

    def check(self, asked: Asked, limits: RequestLimits) -> None:
        """See `Form`."""
        check_texts(asked, limits)

    def body(self, asked: Asked, given: Given) -> dict[str, Any]:
        """See `Form`."""
        shown = cast("_Shown", asked.shown)
        return whole(asked, given, _completion(shown, given), {"read_from": shown.read_from})

    def chunks(self, asked: Asked, given: Given, told: int = 0) -> Iterator[bytes]:
        """A whole answer as the events of a stream, from the character on that was not told yet."""
        return streamed(asked, given, _completion(cast("_Shown", asked.shown), given), told)


def _completion(shown: _Shown, given: Given) -> Mapping[str, Any]:
    label = cast("LabelledAnswer", given.found[0]).label
    return {"choices": [choice_of(shown.contents.get(label, label))]}


def _check_wanted(found: LabelRequest) -> None:
    """See that a label is an answer to what is wanted.

    Raises:
        ApiError: 400 that names the field.
    """
    wanted = {
        "n": ((found.n or 1) != 1, "only 1: there is one label"),
        "tools": (found.tools and found.tool_choice != "none", f"a label calls no tools: {_AS_SCHEMA}"),
        "functions": (found.functions and found.function_call != "none", f"a label calls no functions: {_AS_SCHEMA}"),
        "modalities": (any(one != "text" for one in found.modalities or ()), "only text: a label is one"),
        "audio": (found.audio is not None, "a label is a text: leave it out"),
        "logprobs": (found.logprobs, "POST /v1/classify tells the probabilities of the labels: leave it out here"),
        "logit_bias": (found.logit_bias, "the lane's own labels are weighed by what it learned: leave it out"),
        "web_search_options": (found.web_search_options is not None, "nothing is searched for: leave it out"),
    }
    for field, (is_wanted, message) in wanted.items():
        if is_wanted:
            raise unsupported(field=field, message=message)


def _check_stops(stop: str | list[str] | None, texts: Mapping[str, str]) -> None:
    """See that no answer would be cut: 400 where one would."""
    for one in [stop] if isinstance(stop, str) else stop or ():
        cut = next((label for label, content in texts.items() if one and one in content), None)
        if cut is not None:
            raise unsupported(field="stop", message=f"it would cut the label {cut!r}: leave it out")


def _asked(messages: Sequence[Mapping[str, Any]], lane: LaneSettings) -> tuple[int, str, ReadFrom]:
    """The last message's place, the text that is asked about, and where it was found.

    Raises:
        ApiError: 400: there is none, or something else than texts.
    """
    for place, message in enumerate(messages):
        if message.get("role") not in _TURNS or message.get("tool_calls") or message.get("function_call"):
            what = "only texts of system, developer, user and assistant: a label calls no tools"
            raise unsupported(field=f"messages[{place}]", message=what)
        if has_parts(message.get("content")):
            what = "only texts: a classify lane reads no pictures, sounds or files; send what they say"
            raise unsupported(field=f"messages[{place}].content", message=what)
    asked = [place for place, message in enumerate(messages) if message.get("role") == _USER]
    if not asked:
        raise unsupported(field="messages", message="no message of the user: the text to classify is the last one")
    text = asked_in(messages, prompt_of(lane.teacher.prompt, tuple(lane.terms.labels)))
    if text is not None:
        return asked[-1], text, "prompt"
    return asked[-1], text_of(messages[asked[-1]].get("content")), "message"


def asked_in(messages: Sequence[Mapping[str, Any]], prompt: Prompt) -> str | None:
    """The text that the prompt was filled with: in the user's last message, or in all of them; None: in neither."""
    texts = [text_of(message.get("content")) for message in messages]
    last = [text for text, message in zip(texts, messages, strict=True) if message.get("role") == _USER][-1:]
    found = (prompt.text_in(rendered) for rendered in (*last, "\n".join(texts)))
    return next((text for text in found if text is not None), None)
