"""Personal data and secrets become keyed tokens, `<CARD:7f3a90b1c2>`, so that two cards stay different.

Gateway and ingest run this one function, and it is idempotent: it goes on until a pass changes nothing, and a token is
never matched again. It knows values of a known form; a name or a street it does not know.
"""

import hmac
from typing import Final, assert_never, overload

import msgspec

from store.event import ChatInput, RankInput, TaskInput, TextInput, canonical_text
from store.personal_data import RULES, Rule, count_digits, may_hold

_STROKE: Final = "\u0338"  # combines with the token's closing ">" to another character, so it goes with the value


def redact(text: str, key: bytes) -> str:
    """The canonical text with emails, phones, cards, IBANs, IP addresses and keys replaced by tokens. Idempotent.

    Args:
        text: what a person or a program wrote.
        key: the lane's redaction key: equal values of two lanes have unrelated tokens.
    """
    found = canonical_text(text)
    while True:
        before, digits = found, count_digits(found)
        for rule in RULES:
            if may_hold(rule, found, digits):
                found = _pass(rule, found, key)
        if found == before:
            return found


@overload
def redact_input(value: TextInput, key: bytes) -> TextInput: ...
@overload
def redact_input(value: RankInput, key: bytes) -> RankInput: ...
@overload
def redact_input(value: ChatInput, key: bytes) -> ChatInput: ...
def redact_input(value: TaskInput, key: bytes) -> TaskInput:
    """The input with every text in it redacted, and so canonical."""
    match value:
        case TextInput(text=text):
            return TextInput(text=redact(text, key))
        case RankInput(query=query, documents=documents):
            return RankInput(query=redact(query, key), documents=[redact(each, key) for each in documents])
        case ChatInput(messages=messages):
            return ChatInput(
                messages=[msgspec.structs.replace(each, content=redact(each.content, key)) for each in messages]
            )
        case _:
            assert_never(value)


def _pass(rule: Rule, text: str, key: bytes) -> str:
    """Replace what one rule finds, from left to right; a candidate that is refused hides none that begins in it."""
    parts: list[str] = []
    kept, position = 0, 0
    while (match := rule.pattern.search(text, position)) is not None:
        if match.lastgroup == "token":
            position = match.end()
            continue
        value = rule.find(match)
        if value is None:
            position = match.start() + 1
            continue
        digest = hmac.digest(key, f"{rule.kind}:{value.canonical}".encode(), "sha256").hex()[:10]
        parts += (text[kept : value.start], f"<{rule.kind}:{digest}>")
        kept = value.end
        while text.startswith(_STROKE, kept):
            kept += 1
        position = kept
    return "".join([*parts, text[kept:]]) if parts else text
