"""Server-sent events of chat completions (WHATWG HTML, 9.2): written for clients, read from teachers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from serve.escalation import Answer
from store.redact import restore

DONE: Final = b"[DONE]"
_HALF: Final = "\ufffd"  # of a character that needs more than one token
_PIECE_CHARS: Final = 24  # of a text that is there at once


def event(data: bytes) -> bytes:
    """One event as it is sent."""
    return b"data: " + data + b"\n\n"


class Events:
    """Cuts a body that comes in pieces into the data of its events."""

    def __init__(self) -> None:
        """Nothing has come."""
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The data of the events that are complete with this piece; comments and other fields are passed over."""
        self._rest = (self._rest + piece).replace(b"\r\n", b"\n")
        while b"\n\n" in self._rest:
            block, _, self._rest = self._rest.partition(b"\n\n")
            lines = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:")]
            if lines:
                yield b"\n".join(lines)

    def end(self) -> Iterator[bytes]:
        """What is left when nothing more comes: the last event of a body that ends without its blank line."""
        yield from self.feed(b"\n\n")


class Speech:
    """A student's answer while it grows, as the events of a stream. Satisfies `serve.escalation.Voice`.

    What may become something else is held back: the beginning of a text before which the answer ends, that of a token
    which stands for the client's own value, and half a character.
    """

    def __init__(
        self,
        *,
        head: Mapping[str, Any],
        with_usage: bool,
        noted: Mapping[str, str],
        stops: Sequence[str],
        put: Callable[[bytes], None],
    ) -> None:
        """Nothing was said.

        Args:
            head: id, created, model and what else each chunk has.
            with_usage: a last chunk will say how many tokens there were.
            noted: what each token of personal data in the question stands for.
            stops: texts before which the answer ends.
            put: is handed the data of each event.
        """
        self.speaker: Answer | None = None
        self.told = 0
        self._head = head
        self._beside: dict[str, Any] = {"usage": None} if with_usage else {}
        self._noted = noted
        self._unsure = (*stops, *noted)
        self._put = put

    def begin(self, answer: Answer) -> None:
        """See `Voice`."""
        self.speaker = answer

    def say(self, text: str) -> None:
        """See `Voice`."""
        sure = restore(text[: len(text) - _held(text, self._unsure)], self._noted)
        if len(sure) <= self.told:
            return
        delta = {"content": sure[self.told :], **({} if self.told else {"role": "assistant"})}
        self.told = len(sure)
        one = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        self._put(msgspec.json.encode({**self._head, "choices": [one], **self._beside}))


def _held(text: str, unsure: Sequence[str]) -> int:
    """How many characters at the end of a text may be half of one, or the beginning of one of these, or all of it."""
    whole = text.rstrip(_HALF)
    longest = min(max(map(len, unsure), default=0), len(whole))
    begins = (n for n in range(longest, 0, -1) if any(one.startswith(whole[-n:]) for one in unsure))
    return len(text) - len(whole) + next(begins, 0)


def chunks(
    head: Mapping[str, Any], choice: Mapping[str, Any], usage: Mapping[str, Any] | None, told: int = 0
) -> Iterator[bytes]:
    """A whole answer as the events of a stream, the closing one left out.

    Args:
        head: id, created, model and what else each chunk has.
        choice: of the completion.
        usage: in a chunk of its own; None: the client did not ask for it.
        told: characters of its text that the client has.
    """
    message, place = choice["message"], choice.get("index", 0)
    deltas: list[Mapping[str, Any]] = [] if told else [{"role": "assistant", "content": ""}]
    text = (message.get("content") or "")[told:]
    deltas += ({"content": text[start : start + _PIECE_CHARS]} for start in range(0, len(text), _PIECE_CHARS))
    if message.get("tool_calls"):
        deltas.append({"tool_calls": [{"index": n, **call} for n, call in enumerate(message["tool_calls"])]})
    if message.get("refusal"):
        deltas.append({"refusal": message["refusal"]})
    ended = [None] * len(deltas) + [choice.get("finish_reason") or "stop"]
    beside = {"usage": None} if usage is not None else {}
    for delta, finish_reason in zip([*deltas, {}], ended, strict=True):
        one = {"index": place, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        yield msgspec.json.encode({**head, "choices": [one], **beside})
    if usage is not None:
        yield msgspec.json.encode({**head, "choices": [], "usage": usage})


def assembled(data: list[Mapping[str, Any]]) -> dict[str, Any]:
    """The completion that the chunks of a stream make.

    Raises:
        ValueError: they make none.
    """
    choices: dict[int, dict[str, Any]] = {}
    usage: Any = None
    head: dict[str, Any] = {}
    for chunk in data:
        head = head or {name: value for name, value in chunk.items() if name not in {"choices", "usage", "object"}}
        usage = chunk.get("usage") or usage
        for part in chunk.get("choices") or ():
            _join(choices.setdefault(int(part.get("index") or 0), _empty()), part)
    if not choices:
        message = "not a stream of a chat completion"
        raise ValueError(message)
    made = [{"index": place, **choices[place]} for place in sorted(choices)]
    return {**head, "object": "chat.completion", "choices": made, "usage": usage}


def _empty() -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": None}, "finish_reason": None}


def _join(choice: dict[str, Any], part: Mapping[str, Any]) -> None:
    delta, message = part.get("delta") or {}, choice["message"]
    for name in ("content", "refusal", "reasoning_content"):
        if delta.get(name) is not None:
            message[name] = (message.get(name) or "") + delta[name]
    for call in delta.get("tool_calls") or ():
        calls = message.setdefault("tool_calls", [])
        place = int(call.get("index") or 0)
        while len(calls) <= place:
            calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
        known, function = calls[place], call.get("function") or {}
        known["id"] = call.get("id") or known["id"]
        known["type"] = call.get("type") or known["type"]
        for name in ("name", "arguments"):
            known["function"][name] += function.get(name) or ""
    choice["finish_reason"] = part.get("finish_reason") or choice["finish_reason"]
    logprobs = part.get("logprobs")
    if logprobs and logprobs.get("content"):
        choice.setdefault("logprobs", {"content": []})["content"] += logprobs["content"]
