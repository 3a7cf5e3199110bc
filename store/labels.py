"""Labels: what a teacher's text says, and which label map may follow which.

An answer is read as one label of the lane's list or as an error, never as a guess: an answer off the list is never
trained on. Gateway, ingest, import and backtest all read answers here.
"""

import html
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, NoReturn

from store.answers.label_field import cut_short, labels_in, unsaid
from store.answers.listed import LISTED, doubts
from store.answers.spellings import accentless, bare, caseless, joined, spaced, squeezed
from store.answers.unwrap import (
    Stage,
    apart,
    clean,
    explains,
    is_rule,
    keyed,
    stages,
    trails_off,
    without_thinking,
)
from store.errors import AnswerFault, InvalidAnswerError, SwapRefusedError

AnswerFormat = Literal["text", "json"]

_LONGEST_ANSWER_CHARS: Final = 4_000  # past the thinking; beside it only JSON may be longer
_LONGEST_SPELLING_CHARS: Final = 500  # of an answer that is folded without a list
_MOST_LINES: Final = 40
_MENTIONS_CHARS: Final = 1_000  # that are searched for labels, only to say what is wrong
_DASHES: Final = "-–—"  # noqa: RUF001 - typographic ones, too
_SPELLED: Final = 16  # a letter in its decomposed and escaped forms, at most
_PROBLEMS: Final[Mapping[AnswerFault, str]] = {
    "empty": "is empty",
    "off_list": "is not on the list of labels",
    "several": "names more than one label",
    "not_json": "is not a JSON object with the field label",
    "truncated": "ends before it is one",
}


def parse_label(answer: str, labels: Sequence[str], *, answer_format: AnswerFormat = "text") -> str:
    """The one label that a teacher's answer names, where it is nothing else than that label.

    An exact match wins. Else what stands around the answer comes off, layer by layer: thinking, special tokens, fences,
    markup, quotes, `Label:`, marks at its end. At each layer Unicode forms, blanks and then case, and the gaps between
    words (blank, _ and -) are ignored, as long as one label alone matches. A sentence about a label is none.

    Args:
        answer: what the teacher wrote; any length, read in linear time.
        labels: the lane's list.
        answer_format: `text` is the label alone, or an object with the field `label`; `json` is the object, with prose
            around it or not.

    Raises:
        InvalidAnswerError: the answer names none of the labels, or more than one; its `kind` says which. Its message
            does not quote the answer, in which a teacher may repeat the question.
    """
    if answer_format == "text" and (bare := answer.strip()) in labels:
        return bare
    known = _known(tuple(labels))
    said = without_thinking(clean(answer))
    if said is None:
        _refuse(answer, "truncated")
    fields = labels_in(_unquoted(said)) if answer_format == "json" or "{" in said else []
    if fields and unsaid(said):
        _refuse(answer, "off_list")
    if fields:
        return _of_fields(answer, list(dict.fromkeys(fields)), known)
    if answer_format == "json":
        _refuse(answer, "empty" if not said else "truncated" if cut_short(said) else "not_json")
    if len(said) > _LONGEST_ANSWER_CHARS:
        _refuse(answer, "off_list")
    label = _found(said, known) or _of_lines(answer, said, known)
    return label if label is not None else _refuse(answer, _fault(said, labels))


def listed(label: str, labels: Sequence[str], earlier: Sequence[str] = ()) -> str:
    """The lane's label that another producer's is, in the list's spelling; itself where the lane has no list.

    Args:
        label: as it was said.
        labels: the lane's list.
        earlier: labels that were on it once, of which a ruling tells how they are read: kept as they were said then.

    Raises:
        InvalidAnswerError: it is none of them.
    """
    if not labels:
        return label
    try:
        return parse_label(label, labels)
    except InvalidAnswerError:
        if not earlier:
            raise
    return parse_label(label, earlier)


def folded(answers: Iterable[str]) -> dict[str, str]:
    """Where there is no list: each answer's label, spellings of one label told as the most frequent of them."""
    counts = Counter(answers)
    groups: dict[str, list[str]] = {}
    for answer in counts:
        groups.setdefault(_normal(answer), []).append(answer)
    names = {key: min(group, key=lambda one: (-counts[one], len(one), one)) for key, group in groups.items()}
    return {answer: _plain(names[key]) for key, group in groups.items() for answer in group}


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """A list of labels, looked at in every way that an answer is."""

    labels: tuple[str, ...]
    looks: tuple[tuple[Callable[[str], str], Mapping[str, tuple[str, ...]]], ...]  # the strictest first
    longest: int  # characters; what is longer is no spelling of any of them
    words: frozenset[str]  # of all labels
    has_asides: bool  # a label has parentheses itself


@lru_cache(maxsize=64)
def _known(labels: tuple[str, ...]) -> _Known:
    looks = []
    for look, of_label in ((str, str), (squeezed, squeezed), (caseless, caseless), (spaced, spaced),
                           (joined, joined), (spaced, lambda label: spaced(bare(label))),
                           (accentless, accentless)):  # fmt: skip
        found: dict[str, tuple[str, ...]] = {}
        for label in dict.fromkeys(labels):
            if key := of_label(label):
                found[key] = (*found.get(key, ()), label)
        looks.append((look, found))
    return _Known(
        labels=labels,
        looks=tuple(looks),
        longest=_SPELLED * max(map(len, labels), default=0) + _SPELLED,
        words=frozenset(word for label in labels for word in spaced(label).split()),
        has_asides=any("(" in label for label in labels),
    )


def _found(text: str, known: _Known) -> str | None:
    """The label that a text is, by the strictest look at which one of its layers is a label.

    Raises:
        InvalidAnswerError: a layer looks like more than one label.
    """
    if len(text) > _LONGEST_ANSWER_CHARS:
        return None
    layers = [layer for layer in stages(text, LISTED) if len(layer.text) <= known.longest]
    for look, found in known.looks:
        for layer in layers:
            matches = found.get(look(layer.text), ())
            if len(matches) > 1:
                _refuse(text, "several")
            if matches and not (layer.is_open and _goes_on(matches[0], known)):
                return matches[0] if _is_apart(layer, matches[0], known) else None
    return None


def _is_apart(layer: Stage, label: str, known: _Known) -> bool:
    """Whether what stood around a label leaves it that label: no doubt, and nothing of another one."""
    if any(_is_part(mark, label, known) for mark in layer.marks):
        return False
    if not layer.aside:
        return True
    if known.has_asides or doubts(layer.aside):
        return False
    return set(spaced(layer.aside).split()).isdisjoint(known.words - set(spaced(label).split()))


def _is_part(mark: str, label: str, known: _Known) -> bool:
    """Whether what looked like a mark is a label itself, as in `1. 2`, or makes another one: `- 1`, `C##`."""
    others = {caseless(other) for other in known.labels if other != label}
    alone, beside = caseless(mark.strip("()[].:#")), {mark, "-" if mark in _DASHES else mark}
    return alone in others or any(caseless(made) in others for one in beside for made in (one + label, label + one))


def _goes_on(label: str, known: _Known) -> bool:
    """Whether another label begins with this one, so that what may have been cut may have been either."""
    return any(other != label and caseless(other).startswith(caseless(label)) for other in known.labels)


def _of_lines(answer: str, said: str, known: _Known) -> str | None:
    """The label of an answer of several lines: each is the same label, or says of itself that it is a reason.

    Lines before the first that says of itself that it is the label may be anything but another label.
    """
    text = apart(said)
    for layer in stages(text):
        text = layer.text if "\n" in layer.text else text
    lines = text.split("\n")
    if not 1 < len(lines) <= _MOST_LINES:
        return None
    found: list[str | None] = []
    explaining = told = False
    for line in lines:
        if not line.strip() or is_rule(line):
            continue
        if explains(line):
            explaining = True
        elif keyed(line):
            found = found if told else [label for label in found if label is not None]
            explaining, told = False, True
            found.append(_found(line, known))
        elif not explaining:
            found.append(_found(line, known))
        elif (named := _found(line, known)) is not None:
            found.append(named)
    if not found or None in found:
        return None
    return _agreed(answer, found)


def _of_fields(answer: str, fields: Sequence[str], known: _Known) -> str:
    if len(fields) > _MOST_LINES:
        _refuse(answer, "several")
    found = [_found(field, known) for field in fields]
    if len(fields) == 1 and found[0] is None:
        _refuse(answer, _fault(fields[0], known.labels))
    return _agreed(answer, found)


def _agreed(answer: str, found: Sequence[str | None]) -> str:
    """The one label among those found."""
    named = {label for label in found if label is not None}
    if len(named) == 1 and None not in found:
        return named.pop()
    return _refuse(answer, "several" if len(named) > 1 else "off_list")


def _fault(said: str, labels: Sequence[str]) -> AnswerFault:
    """Which kind of no label a short answer is."""
    last = said
    for layer in stages(said):
        last = layer.text
    if not last:
        return "empty"
    text = spaced(said[:_MENTIONS_CHARS])
    named = [key for label in labels if (key := spaced(label)) and _mentions(text, key)]
    if any(one not in other and other not in one for one in named for other in named):
        return "several"
    return "truncated" if trails_off(said) else "off_list"


def _mentions(text: str, key: str) -> bool:
    """Whether a label stands in the text as words of its own."""
    return re.search(rf"(?<!\w){re.escape(key)}(?!\w)", text) is not None


def _refuse(answer: str, kind: AnswerFault) -> NoReturn:
    message = f"the teacher's answer ({len(answer)} characters) {_PROBLEMS[kind]}"
    raise InvalidAnswerError(message, kind=kind)


def _unquoted(text: str) -> str:
    """The text of an answer that is one JSON string, as an endpoint that encodes twice sends it, or of HTML."""
    if "&quot;" in text and '"' not in text:
        return html.unescape(text)
    if text[:2] in ("{\\", "[{") and '\\"' in text and text.count('"') == text.count('\\"'):
        text = f'"{text}"'
    if len(text) > 1 and text[0] == text[-1] == '"' and "\\" in text:
        try:
            decoded = json.loads(text, strict=False)
        except ValueError:
            return text
        return decoded if isinstance(decoded, str) else text
    return text


def _normal(answer: str) -> str:
    """What all spellings of one label have in common, where there is no list of labels."""
    return spaced(_plain(answer)) or answer


def _plain(answer: str) -> str:
    """An answer with all its layers off; itself where nothing would be left or it is too long for a label."""
    if len(answer) > _LONGEST_SPELLING_CHARS:
        return answer
    said = without_thinking(clean(answer))
    fields = labels_in(_unquoted(said)) if said is not None and "{" in said else []
    last = fields[0] if len(set(fields)) == 1 else said or answer
    for layer in stages(last):
        last = layer.text or last
    return last
