"""Redaction as it is defined: every rule over the whole text, in rounds, until a round changes nothing. Slow."""

import hmac
import re
from typing import Final

from store.event import canonical_text
from store.personal_data import RULES, TOKEN, Rule, Value

_BEFORE: Final = 12


def redact_in_passes(text: str, key: bytes) -> str:
    """What `store.redact.redact` must return, in time that grows with the square of the text."""
    found = canonical_text(text)
    while True:
        before = found
        for rule in RULES:
            found = _pass(rule, found, key)
        if found == before:
            return found


def _pass(rule: Rule, text: str, key: bytes) -> str:
    pattern = re.compile(f"(?P<token>{TOKEN.pattern})|{rule.pattern.pattern}", re.VERBOSE)
    parts: list[str] = []
    kept, position = 0, 0
    while (match := pattern.search(text, position)) is not None:
        if match.lastgroup == "token":
            position = match.end()
            continue
        value = rule.find(match)
        if value is None or _is_named(rule, text, value):
            position = match.start() + 1
            continue
        digest = hmac.digest(key, f"{rule.kind}:{value.canonical}".encode(), "sha256").hex()[:10]
        parts += (text[kept : value.start], f"<{rule.kind}:{digest}>")
        kept = value.end
        while text.startswith("\u0338", kept):
            kept += 1
        position = kept
    return "".join([*parts, text[kept:]])


def _is_named(rule: Rule, text: str, value: Value) -> bool:
    before = text[max(0, value.start - _BEFORE) : value.start]
    return rule.unless is not None and rule.unless.search(before) is not None
