"""Seeded traffic for the demo and the tests: a support desk's questions with a teacher's recorded answers.

The same seed gives the same rows. The teacher errs on the same questions each time, and only between intents that one
word tells apart; nobody else of the product reads the true intent.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, Literal

from ops.demo.traffic.support_desk import INTENTS, LATE, OFF_TOPIC, OFF_TOPIC_TALK, PAIRS, RULES
from store.event import canonical_text
from store.secrets import unit_hash

MessageKind = Literal["new", "near_repeat", "repeat"]

_CHOICE: Final = re.compile(r"\(([^()]*)\)")
_RULE: Final = re.compile(r"\{(\w+)\}")
_SPACE_BEFORE_MARK: Final = re.compile(r" ([.,?!])")
_MAX_EXPANSIONS: Final = 64
_TWIN: Final = {a: b for one, other in PAIRS for a, b in ((one, other), (other, one))}
_NEIGHBOURS: Final = {
    "a": "sq",
    "b": "vn",
    "c": "xv",
    "d": "sf",
    "e": "wr",
    "f": "dg",
    "g": "fh",
    "h": "gj",
    "i": "uo",
    "k": "jl",
    "l": "k",
    "m": "n",
    "n": "bm",
    "o": "ip",
    "p": "o",
    "r": "et",
    "s": "ad",
    "t": "ry",
    "u": "yi",
    "y": "tu",
}
_EXTRA_CLOSE: Final = ("", "!", "?", " please", " thanks", "...", " thank you")
_EXTRA_OPEN: Final = ("", "hi, ", "hello, ", "please: ", "again: ")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficRow:
    """One request of the traffic."""

    text: str
    label: str  # what the recorded teacher says to this text
    intent: str  # what was meant; the product never sees it
    kind: MessageKind


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficSettings:
    """The shape of the traffic; shares are of all requests."""

    seed: int = 1
    rows: int = 3000
    repeat_ratio: float = 0.10  # exact repeats of an earlier request
    near_repeat_ratio: float = 0.08  # an earlier request with a typo or another politeness
    off_topic_ratio: float = 0.03
    typo_ratio: float = 0.08  # of new questions
    late_ratio: float = 0.05  # of the topic that appears half way, from then on
    zipf_exponent: float = 0.5  # popularity of the k-th most popular intent is k to the minus this
    confused_ratio: float = 0.025  # of the questions of a confusable pair, those that the teacher gets wrong


def generate(settings: TrafficSettings) -> list[TrafficRow]:
    """The requests in the order they are sent. Pure: the same settings give the same rows."""
    rng = Random(f"understudy-traffic/{settings.seed}")  # noqa: S311 - traffic, not cryptography
    shares = _shares(settings)
    rows: list[TrafficRow] = []
    for index in range(settings.rows):
        rows.append(_next_row(rows, settings, shares[2 * index >= settings.rows], rng))
    return rows


def teacher_label(intent: str, text: str, *, confused_ratio: float) -> str:
    """The recorded teacher's answer: a function of the text alone, wrong only inside a confusable pair."""
    twin = _TWIN.get(intent)
    if twin is not None and unit_hash("teacher", canonical_text(text).casefold()) < confused_ratio:
        return twin
    return intent


def to_jsonl(rows: list[TrafficRow]) -> Iterator[str]:
    """The rows as the lines of a file that `make demo TRAFFIC=` reads back."""
    for row in rows:
        yield json.dumps({"text": row.text, "teacher": {"label": row.label}, "gold": row.intent}, ensure_ascii=False)


def expand(template: str, rng: Random, rules: Mapping[str, Sequence[str]] = RULES) -> str:
    """Expand rules and choices until none is left.

    Args:
        template: with (choices|of|words) and {rules}.
        rng: draws.
        rules: what may stand for each; {digits} and {four} are numbers anywhere.

    Raises:
        ValueError: the grammar does not end.
    """
    text = template
    for _ in range(_MAX_EXPANSIONS):
        if (choice := _CHOICE.search(text)) is not None:
            text = text[: choice.start()] + rng.choice(choice[1].split("|")) + text[choice.end() :]
        elif (rule := _RULE.search(text)) is not None:
            text = text[: rule.start()] + _rule(rule[1], rng, rules) + text[rule.end() :]
        else:
            return _SPACE_BEFORE_MARK.sub(r"\1", canonical_text(text))
    message = f"the grammar does not end: {template}"
    raise ValueError(message)


def _rule(name: str, rng: Random, rules: Mapping[str, Sequence[str]]) -> str:
    if name == "digits":
        return str(rng.randint(10000, 99999))
    if name == "four":
        return str(rng.randint(1000, 9999))
    return rng.choice(rules[name])


def _shares(settings: TrafficSettings) -> tuple[dict[str, float], dict[str, float]]:
    """Intent shares before and after the late topic appears; the grammar lists the intents by popularity."""
    intents = [name for name in INTENTS if name not in LATE]
    weights = {name: (rank + 1) ** -settings.zipf_exponent for rank, name in enumerate(intents)}
    total = sum(weights.values())
    before = {name: weight / total * (1 - settings.off_topic_ratio) for name, weight in weights.items()}
    before[OFF_TOPIC] = settings.off_topic_ratio
    after = {name: share * (1 - settings.late_ratio) for name, share in before.items()}
    after[OFF_TOPIC] = settings.off_topic_ratio
    after |= dict.fromkeys(LATE, settings.late_ratio / len(LATE))
    return before, after


def _next_row(
    earlier: list[TrafficRow], settings: TrafficSettings, shares: dict[str, float], rng: Random
) -> TrafficRow:
    draw = rng.random()
    if earlier and draw < settings.repeat_ratio:
        again = rng.choice(earlier)
        return TrafficRow(text=again.text, label=again.label, intent=again.intent, kind="repeat")
    if earlier and draw < settings.repeat_ratio + settings.near_repeat_ratio:
        again = rng.choice(earlier)
        return _row(reworded(again.text, rng), again.intent, "near_repeat", settings)
    intent = rng.choices(list(shares), weights=list(shares.values()))[0]
    template = rng.choice(OFF_TOPIC_TALK if intent == OFF_TOPIC else INTENTS[intent])
    text = expand(f"{{open}}{template}{{aside}}{{close}}" if intent != OFF_TOPIC else f"{{open}}{template}", rng)
    return _row(written(text, settings.typo_ratio, rng), intent, "new", settings)


def _row(text: str, intent: str, kind: MessageKind, settings: TrafficSettings) -> TrafficRow:
    label = teacher_label(intent, text, confused_ratio=settings.confused_ratio)
    return TrafficRow(text=text, label=label, intent=intent, kind=kind)


def written(text: str, typo_ratio: float, rng: Random) -> str:
    """As a person types: capitals and a final mark now and then, and some slips."""
    if rng.random() < 0.5:  # noqa: PLR2004 - as many start with a capital as do not
        text = text[:1].upper() + text[1:]
    if text[-1].isalnum():
        text += rng.choice(("", "", ".", "?", "!"))
    return _typo(text, rng) if rng.random() < typo_ratio else text


def reworded(text: str, rng: Random) -> str:
    """The same question, with a typo or another politeness; never a word that matters."""
    if rng.random() < 0.5:  # noqa: PLR2004 - half and half
        return _typo(text, rng)
    return canonical_text(rng.choice(_EXTRA_OPEN) + text.rstrip(".?!") + rng.choice(_EXTRA_CLOSE))


def _typo(text: str, rng: Random) -> str:
    """One slip inside a word of five letters or more: short words ("not", "to", "from") carry the meaning."""
    words = list(re.finditer(r"[a-z]{5,}", text))
    if not words:
        return text
    word = rng.choice(words)
    at = rng.randrange(word.start() + 1, word.end() - 1)
    letter = text[at]
    match rng.randrange(4):
        case 0:
            return text[:at] + text[at + 1 :]
        case 1:
            return text[:at] + letter + text[at:]
        case 2:
            return text[:at] + text[at + 1] + letter + text[at + 2 :]
        case _:
            return text[:at] + rng.choice(_NEIGHBOURS.get(letter, letter)) + text[at + 1 :]
