"""What a decoder reads: messages through its own chat template, as token ids; and its ids as text again."""

import json
import threading
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, Final

import jinja2
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from store.errors import CorruptVersionError
from store.student.chat.folder import SETTINGS_NAME
from store.student.folder import TOKENIZER_NAME

_SPECIAL: Final = ("bos_token", "eos_token", "pad_token", "unk_token")
_OLDER_ROLES: Final = {"developer": "system", "function": "tool"}  # what templates call them
_PROBE: Final = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})


class TemplateRefusalError(ValueError):
    """The template does not take these messages: no student on this decoder can answer them."""


class Template:
    """One tokenizer with its chat template. Safe to use from several threads at once."""

    def __init__(self, tokenizer: bytes, settings: bytes, *, ends: Sequence[int]) -> None:
        """Read the files' bytes.

        Args:
            tokenizer: of `tokenizer.json`.
            settings: of `tokenizer_config.json`.
            ends: ids that end an answer, as the model's configurations name them.

        Raises:
            CorruptVersionError: a file is unreadable, has no chat template, or nothing would ever end an answer.
        """
        self._plain, self._tokenizer = _tokenizers(tokenizer, settings)
        self._lock = threading.Lock()  # the library sets truncation and padding at each call
        own = self._tokenizer.eos_token_id
        self.ends: frozenset[int] = frozenset(ends) | ({own} if own is not None else frozenset())
        if not self.ends:
            message = f"no token ends an answer: {SETTINGS_NAME} needs an eos_token"
            raise CorruptVersionError(message)
        self.end: int = self._usual_end()  # what the template itself ends an answer with
        self.tokens: int = self._plain.get_vocab_size()

    def render(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> list[int]:
        """A conversation's ids, up to where the answer begins.

        Control tokens that the messages themselves spell are read as plain text. A system message goes before the
        first user message where the template knows no such role.

        Args:
            messages: in the form of the OpenAI API.
            tools: likewise; templates without tools leave them out.

        Raises:
            TemplateRefusalError: the template takes no such conversation.
        """
        told = [_told(message) for message in messages]
        try:
            return self._ids(told, tools, asking=True)
        except TemplateRefusalError:
            merged = _without_system(told)
            if merged == told:
                raise
            return self._ids(merged, tools, asking=True)

    def answer_ids(self, text: str) -> list[int]:
        """An answer's ids, its end included."""
        return [*self._plain.encode(text, add_special_tokens=False).ids, self.end]

    def text_of(self, ids: Sequence[int]) -> str:
        """The text of an answer's ids, without its end and other control tokens."""
        text: str = self._plain.decode(list(ids), skip_special_tokens=True)
        return text

    def _ids(self, told: list[dict[str, Any]], tools: Sequence[Mapping[str, Any]] | None, *, asking: bool) -> list[int]:
        try:
            with self._lock:
                read = self._tokenizer.apply_chat_template(
                    told,
                    tools=list(tools) if tools else None,
                    add_generation_prompt=asking,
                    sanitize_control_tokens=True,
                    return_dict=False,
                )
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            message = f"the chat template does not take these messages: {error}"
            raise TemplateRefusalError(message) from error
        ids: list[int] = list(read)
        if not ids:
            message = "the chat template makes nothing of these messages"
            raise TemplateRefusalError(message)
        return ids

    def _usual_end(self) -> int:
        try:
            found = [token for token in self._ids([*map(dict, _PROBE)], None, asking=False) if token in self.ends]
        except TemplateRefusalError as error:
            message = f"{SETTINGS_NAME} has a chat template that takes no question and answer: {error}"
            raise CorruptVersionError(message) from error
        own = self._tokenizer.eos_token_id
        return found[-1] if found else own if own is not None else min(self.ends)


def shared_prefix(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with, at least one of each row left over; 0 for a single row."""
    if len(rows) < 2:  # noqa: PLR2004 - nothing to share
        return 0
    first, last = min(map(tuple, rows)), max(map(tuple, rows))  # what these two share, all share
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    return max(0, min(common, min(map(len, rows)) - 1))


def _tokenizers(tokenizer: bytes, settings: bytes) -> tuple[Tokenizer, Any]:
    try:
        said = dict(json.loads(settings))
        plain = Tokenizer.from_str(tokenizer.decode())
        plain.no_padding()
        plain.no_truncation()
    except Exception as error:  # the library raises bare exceptions
        message = f"{TOKENIZER_NAME} or {SETTINGS_NAME} is unreadable: {error}"
        raise CorruptVersionError(message) from error
    template = said.get("chat_template")
    if not isinstance(template, str) or not template.strip():
        message = f"{SETTINGS_NAME} has no chat_template: copy the text of chat_template.jinja into it"
        raise CorruptVersionError(message)
    special = {name: _token(said[name]) for name in _SPECIAL if said.get(name) is not None}
    return plain, PreTrainedTokenizerFast(tokenizer_object=plain, chat_template=template, **special)  # type: ignore[no-untyped-call]


def _token(said: Any) -> str:
    """A special token, which older files spell out as an object."""
    return str(said["content"] if isinstance(said, dict) else said)


def _told(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as templates know them: arguments of tool calls as objects, roles under their older names."""
    told = {name: value for name, value in message.items() if value is not None}
    told["role"] = _OLDER_ROLES.get(told["role"], told["role"])
    told.setdefault("content", "")
    if calls := told.get("tool_calls"):
        told["tool_calls"] = [_call(call) for call in calls]
    return told


def _call(call: Any) -> Any:
    try:
        function = call["function"]
        return {**call, "function": {**function, "arguments": json.loads(function["arguments"])}}
    except (TypeError, KeyError, ValueError):
        return call


def _without_system(told: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Leading system messages put before the first user message."""
    leading = list(takewhile(lambda message: message["role"] == "system", told))
    rest = [dict(message) for message in told[len(leading) :]]
    if leading and rest and rest[0]["role"] == "user":
        rest[0]["content"] = "\n\n".join([*(message["content"] for message in leading), rest[0]["content"]])
        return rest
    return [dict(message) for message in told]
