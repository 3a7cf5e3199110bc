"""A call as a row of a log, personal data out of it: what `import` and `backtest` read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from serve.completions.request import digest_of, is_text
from serve.proxy.app import Exchange
from serve.proxy.tasks import Beside
from store.errors import WrongShapeError
from store.event import MAX_EVENT_BYTES, utc

_AS_THEY_ARE: Final = frozenset(  # fields whose values are words of the protocol
    {"id", "model", "object", "role", "type", "finish_reason", "system_fingerprint", "service_tier", "tool_call_id"}
)
_SUBJECT: Final = "user"
_CONTENT: Final = "content"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """How calls are written down."""

    redact: Callable[[str], str]
    subject: Callable[[str], str]  # what stands for a person
    new_id: Callable[[float], str]  # by when it was, Unix seconds
    keep_parts: bool = False  # pictures and sounds; else their digests
    prompt: str | None = None
    beside: Beside | None = None

    def line(self, exchange: Exchange) -> bytes:
        """A call as a line of JSON.

        Raises:
            WrongShapeError: it is longer than an event may be.
            TooLaboriousError: a text of it cannot be redacted.
        """
        text = self.beside(exchange.request, self.prompt) if self.beside is not None and self.prompt is not None else {}
        row = {
            "id": self.new_id(exchange.at_s),
            "time": utc(exchange.at_s).isoformat(),
            **self._clean(text),
            "request": self._clean(exchange.request),
            "response": self._clean(exchange.response),
            "latency_ms": round(exchange.took_s * 1000, 1),
        }
        line = msgspec.json.encode(row)
        if len(line) >= MAX_EVENT_BYTES:
            message = f"{len(line)} bytes, and a row has less than {MAX_EVENT_BYTES}"
            raise WrongShapeError(message)
        return line

    def _clean(self, value: Any, name: str = "") -> Any:
        if isinstance(value, str):
            if name == _SUBJECT:
                return self.subject(value)
            return value if name in _AS_THEY_ARE else self.redact(value)
        if isinstance(value, Mapping):
            return {key: self._clean(one, key) for key, one in value.items()}
        if not isinstance(value, list):
            return value
        digested = name == _CONTENT and not self.keep_parts
        return [digest_of(one) if digested and _is_picture(one) else self._clean(one, name) for one in value]


def _is_picture(part: Any) -> bool:
    """Whether a part of a content is something else than a text."""
    return isinstance(part, Mapping) and "type" in part and not is_text(part)
