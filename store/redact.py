"""Personal data and secrets become keyed tokens, `<CARD:7f3a90b1c2>`, so that two cards stay different.

Gateway and ingest run this one function, and it is idempotent: it goes on until a pass changes nothing, and a token is
never matched again. It knows values of a known form; a name or a street it does not know.

Passes go through the rules in turn, over and over. A token is a wall: no rule sees past it, so what lies between two
tokens, a field, lives on by itself, and after the first round a pass needs to look only where a token has cut its field
since that rule's last pass. So the work grows with the text, not with the number of passes times the text.
"""

import hmac
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Final, NamedTuple

from store.errors import TooLaboriousError
from store.event import canonical_text
from store.personal_data import RULES, SHORTEST, TOKEN, DataKind, Rule, Value, count_digits, may_hold

MAX_WORK: Final = 200_000  # candidates tried in one input: about a second, and 40,000 values
_VALUE_WORK: Final = 4  # of a value, beside that of the candidate that it was
_CHARACTERS_A_UNIT: Final = 64  # of looking through characters for a place to try
_WORD: Final = re.compile(r"\S+")
_STROKE: Final = "\u0338"  # combines with the token's closing ">" to another character, so it goes with the value

Redact = Callable[[str], tuple[str, Mapping[str, str]]]
"""`redact_noting` with a key: the text as it may be kept, and what each token in it stands for."""


class Effort:
    """The work that may still go into one input: counted, not timed, so that every reader of a log decides alike."""

    def __init__(self, work: int = MAX_WORK) -> None:
        """Start with so much."""
        self.left = work

    def spend(self, work: int) -> None:
        """Take some out.

        Raises:
            TooLaboriousError: there is not so much left.
        """
        self.left -= work
        if self.left < 0:
            message = "too many numbers that are almost, or are, personal data: send the text in parts"
            raise TooLaboriousError(message)


def redact(text: str, key: bytes, effort: Effort | None = None) -> str:
    """The text with emails, phones, cards, IBANs, IP addresses and keys replaced by tokens. Idempotent.

    Values are looked for in the canonical text, so that no layout hides one, and replaced as it was written.
    Blanks and line breaks stay, except within a value, and line ends become one form. The canonical form of what comes
    out is what comes out of the canonical form.

    Args:
        text: what a person or a program wrote.
        key: the lane's redaction key: equal values of two lanes have unrelated tokens.
        effort: the work that may go into it, if it is shared with other texts.

    Raises:
        TooLaboriousError: the text needs more work than any text of a person would.
    """
    return redact_noting(text, key, effort)[0]


def redact_noting(text: str, key: bytes, effort: Effort | None = None) -> tuple[str, dict[str, str]]:
    """As `redact`, with what each token stands for, as it was written: for `restore`, and for no log or store.

    Raises:
        TooLaboriousError: as of `redact`.
    """
    written = text.replace("\r\n", "\n").replace("\r", "\n")
    canonical = canonical_text(written)
    digits = count_digits(canonical)
    rules = [rule for rule in RULES if may_hold(rule, canonical, digits)]
    values = sorted(_values(canonical, rules, effort or Effort()), key=lambda found: found[1].start) if rules else []
    if not values:
        return written, {}
    spelled = _Spelled(written) if written != canonical else None
    parts: list[str] = []
    noted: dict[str, str] = {}
    kept = 0
    for kind, value in values:
        digest = hmac.digest(key, f"{kind}:{value.canonical}".encode(), "sha256").hex()[:10]
        between = canonical[kept : value.start] if spelled is None else spelled.between(kept, value.start)
        parts += (between, f"<{kind}:{digest}>")
        noted.setdefault(parts[-1], canonical[value.start : value.end])
        kept = value.end
    parts.append(canonical[kept:] if spelled is None else spelled.between(kept, len(canonical)))
    return "".join(parts), noted


def restore(text: str, noted: Mapping[str, str]) -> str:
    """The text with the values back for whose tokens it holds; tokens of somebody else's stay."""
    return TOKEN.sub(lambda token: noted.get(token.group(), token.group()), text) if noted else text


class _Spelled:
    """A text as it was written, looked up by places of its canonical form, word by word.

    Words are what both forms have in common: normalising reaches across no blank.
    """

    def __init__(self, written: str) -> None:
        """Note where each word begins in either form."""
        spans = [word.span() for word in _WORD.finditer(written)]
        self._written = written
        self._spans = spans
        self._words = [canonical_text(written[start:end]) for start, end in spans]
        self._starts = list(accumulate((len(word) + 1 for word in self._words), initial=0))[:-1]

    def between(self, low: int, high: int) -> str:
        """What was written where the canonical form has [low, high), with the blanks at the text's own ends.

        A word that is cut is told in its canonical form.
        """
        first, last = bisect_right(self._starts, low) - 1, bisect_right(self._starts, high) - 1
        before = self._written[: self._spans[0][0]] if low == 0 else ""
        after = self._written[self._spans[-1][1] :] if last == len(self._words) - 1 and self._is_end(high) else ""
        if first == last:
            return before + self._part(first, low, high) + after
        blanks = self._written[self._spans[first][1] : self._spans[last][0]]
        head = self._part(first, low, self._starts[first] + len(self._words[first]))
        return before + head + blanks + self._part(last, self._starts[last], high) + after

    def _is_end(self, place: int) -> bool:
        return place == self._starts[-1] + len(self._words[-1])

    def _part(self, word: int, low: int, high: int) -> str:
        """Of one word what lies in [low, high), places of the canonical text."""
        start, whole = self._starts[word], self._words[word]
        if (low, high) == (start, start + len(whole)):
            return self._written[slice(*self._spans[word])]
        return whole[low - start : high - start]


class _Field(NamedTuple):
    """What lies between two tokens, and the pass that goes on with it. Passes are numbered through all rounds."""

    low: int
    high: int
    next_pass: int
    cut_below: int  # the pass whose token ends before `low`
    cut_above: int  # the pass whose token begins at `high`


_NEVER: Final = -len(RULES) - 1  # before the first pass: a text's own ends and tokens


def _values(text: str, rules: list[Rule], effort: Effort) -> list[tuple[DataKind, Value]]:
    """What the rules find in a canonical text, in no order."""
    found: list[tuple[DataKind, Value]] = []
    fields = _first_fields(text)
    while fields:
        field = fields.pop()
        for number in range(field.next_pass, max(0, field.cut_below + 1, field.cut_above + 1) + len(rules)):
            rule = rules[number % len(rules)]
            values = _pass(rule, text, field, number, len(rules), effort)
            if values:
                found += [(rule.kind, value) for value in values]
                fields += _rest(field, values, number)
                break
    return found


def _first_fields(text: str) -> list[_Field]:
    """The stretches between the tokens that the text has already."""
    if "<" not in text:
        return [_Field(0, len(text), 0, _NEVER, _NEVER)]
    ends = [0, *(end for token in TOKEN.finditer(text) for end in token.span()), len(text)]
    return [
        _Field(low, high, 0, _NEVER, _NEVER)
        for low, high in zip(ends[::2], ends[1::2], strict=True)
        if high - low >= SHORTEST
    ]


def _rest(field: _Field, values: list[Value], number: int) -> list[_Field]:
    """The fields that a field leaves when this pass has found values in it."""
    lows = [(field.low, field.cut_below), *((value.end, number) for value in values)]
    highs = [*((value.start, number) for value in values), (field.high, field.cut_above)]
    return [
        _Field(low, high, number + 1, cut_below, cut_above)
        for (low, cut_below), (high, cut_above) in zip(lows, highs, strict=True)
        if high - low >= SHORTEST
    ]


def _pass(rule: Rule, text: str, field: _Field, number: int, rules: int, effort: Effort) -> list[Value]:
    """What one rule finds in a field: in the first round anywhere, and later where the field has been cut since."""
    low, high = field.low, field.high
    if number < rules:
        return _find(rule, text, field, low, high, effort)
    values: list[Value] = []
    start = low
    if number <= field.cut_below + rules:
        start = min(low + rule.behind, high)
        values = _find(rule, text, field, low, start, effort)
    if number <= field.cut_above + rules:
        reach = rule.reach(text, low, high)
        effort.spend((high - reach) // _CHARACTERS_A_UNIT)
        values += _find(rule, text, field, max(reach, values[-1].end if values else start), high, effort)
    return values


def _find(rule: Rule, text: str, field: _Field, first: int, last: int, effort: Effort) -> list[Value]:
    """The values whose match starts in [first, last); a candidate that is refused hides none that begins in it."""
    low, high = field.low, field.high
    step_by_step = last < high  # rather than seek, beyond `last`, what is not asked for
    go_on = rule.pattern.match if step_by_step else rule.pattern.search
    values: list[Value] = []
    place = first
    while place < last:
        match = rule.opening.match(text, low, high) if place == low > 0 else go_on(text, place, high)
        if match is None:
            if not step_by_step and (place > low or not low):
                break
            place += 1
            continue
        effort.spend(1)
        value = rule.find(match)
        if value is None or _is_named(rule, text, low, value):
            place = match.start() + 1
            continue
        end = value.end
        while end < high and text[end] == _STROKE:
            end += 1
        effort.spend(_VALUE_WORK)
        values.append(Value(value.start, end, value.canonical))
        place = end
    return values


def _is_named(rule: Rule, text: str, low: int, value: Value) -> bool:
    """Whether the words before it say that it is something else."""
    return rule.unless is not None and bool(rule.unless.search(text, max(low, value.start - rule.behind), value.start))
