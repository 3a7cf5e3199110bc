"""One turn with a chat model: what is sent, what it can cost, and the text that comes back."""

from collections.abc import Mapping
from typing import Any, Final

from serve.settings import TeacherSettings
from serve.teacher.ask.asking import Call, Tab, TokenPrices
from serve.teacher.ask.completion import read_completion, said
from serve.teacher.parameters import body_of, most_output_tokens

_PATH: Final = "/chat/completions"
_ASSUMED_COMPLETION_TOKENS: Final = 1_024  # where the parameters set no limit
_ENVELOPE_TOKENS: Final = 32  # roles and separators around the prompt


class ChatModel:
    """A chat model, as the settings describe it."""

    def __init__(self, settings: TeacherSettings) -> None:
        """Prepare what every call has in common."""
        self._model = settings.model
        self._body: Mapping[str, Any] = body_of(settings.parameters)
        self._most_output = most_output_tokens(settings.parameters) or _ASSUMED_COMPLETION_TOKENS
        self._prices = prices_of(settings)

    def call(self, prompt: str) -> Call:
        """One call with a whole prompt."""
        return Call(
            path=_PATH,
            body={"model": self._model, "messages": [{"role": "user", "content": prompt}], **self._body},
        )

    def bound_usd(self, prompt_bytes: int) -> float:
        """What it can cost at most: a byte is at least a token, and the answer is as long as it may be."""
        return self._prices.usd(prompt_bytes + _ENVELOPE_TOKENS, self._most_output)

    def read(self, body: bytes, prompt: str, tab: Tab) -> str:
        """The text that an answer's body holds; what it cost goes on the tab, by its bound where nobody says.

        Raises:
            InvalidAnswerError: it did not end by itself.
            ValueError: it is no chat completion.
        """
        completion = read_completion(body)
        usage = completion.usage
        if usage is None:
            tab.add(None, self.bound_usd(size_bytes(prompt)))
        else:
            tab.add(usage, self._prices.usd(usage.prompt_tokens, usage.completion_tokens))
        tab.said = ""
        tab.said = said(completion)
        return tab.said


def size_bytes(text: str) -> int:
    """Of a text as it is sent."""
    return len(text.encode("utf-8", "replace"))


def prices_of(settings: TeacherSettings) -> TokenPrices:
    """What the lane's teacher takes."""
    return TokenPrices(
        input_usd_per_mtok=settings.input_usd_per_mtok,
        output_usd_per_mtok=settings.output_usd_per_mtok,
        search_usd=settings.search_usd,
    )
