"""What a teacher says of a list of documents: an order of their numbers, or a score for each.

An answer is read as a ranking or as an error, never as a guess: numbers that stand in prose are none.
"""

import json
import re
from collections.abc import Sequence
from math import isfinite
from typing import Any, Final, NoReturn

from store.answers.unwrap import clean, without_thinking
from store.errors import AnswerFault, InvalidAnswerError
from store.labels import AnswerFormat

_MOST_CHARS: Final = 40_000  # past the thinking; a thousand numbers on lines of their own are a quarter of it
_FENCE: Final = re.compile(r"\A(`{3,}|~{3,})[^\n`~]*\n(.*?)\n?\1\Z", re.DOTALL)
_SPECIAL: Final = re.compile(r"<\|[^|<>\s]{1,40}\|>|</?s>")
_KEY: Final = re.compile(r"\A(?:final )?(?:ranking|order|answer|output|result)s?\s*[:=]\s*", re.IGNORECASE)
_NUMBER: Final = r"(?:\[\s*(\d{1,6})\s*\]|(?<![\d.])(\d{1,6})(?![\d.]*\d))"
_CHAIN: Final = re.compile(rf"\s*{_NUMBER}(?:\s*(?:>|>>|,|;|→|->|⇒|≻)\s*{_NUMBER})*\s*[.]?\s*")
_LINE: Final = re.compile(rf"\s*(?:[-*•+]\s+)?{_NUMBER}\s*[.,;)]?\s*")
_NUMBERED_LINE: Final = re.compile(r"\s*\d{1,6}[.):]\s+\[\s*(\d{1,6})\s*\].*")
_ECHO_LINE: Final = re.compile(r"\s*(?:[-*•+]\s+)?\[\s*(\d{1,6})\s*\]\s+\S.*")
_ONE: Final = re.compile(_NUMBER)
_FIELDS: Final = ("order", "ranking", "ranks", "answer", "result", "results", "indices", "indexes", "documents")
_SCORES: Final = ("relevance_score", "score")
_PROBLEMS: Final[dict[AnswerFault, str]] = {
    "empty": "is empty",
    "off_list": "is no order of the numbers that were given",
    "several": "is more than one order",
    "not_json": "is not JSON with an order of the numbers that were given",
    "truncated": "ends before it is one",
}


def read_order(answer: str, count: int, *, answer_format: AnswerFormat = "text") -> tuple[int, ...]:
    """Places from 0, best first, of documents that were shown with the numbers from 1.

    Read are a JSON list (or an object with one field that holds one), `[3] > [1] > [2]`, numbers between commas, and a
    number a line, which may be numbered, and may repeat the document behind a number in brackets. What stands around
    it comes off: thinking, fences, `Ranking:`. An order may name a part of the documents; of a number that comes
    again, the first place counts.

    Args:
        answer: what the teacher wrote; any length, read in linear time.
        count: of the documents.
        answer_format: `json` reads JSON alone.

    Raises:
        InvalidAnswerError: it is none, or names a document that there is not. The message quotes nothing.
    """
    said = without_thinking(clean(answer))
    if said is None:
        _refuse(answer, "truncated")
    said = _bare(said)
    if not said:
        _refuse(answer, "empty")
    if len(said) > _MOST_CHARS:
        _refuse(answer, "off_list")
    numbers = _of_json(answer, said, strict=answer_format == "json")
    if numbers is None:
        numbers = _of_text(said)
    if numbers is None or not all(1 <= number <= count for number in numbers):
        _refuse(answer, "off_list")
    if not numbers:
        _refuse(answer, "empty")
    return tuple(dict.fromkeys(number - 1 for number in numbers))


def read_results(results: Sequence[Any], count: int) -> list[float]:
    """A score for each document, from results in the shape that rerankers share, in any order.

    Raises:
        InvalidAnswerError: a document has no score, more than one, or none that is a number.
    """
    scores: dict[int, float] = {}
    for result in results:
        place = result.get("index") if isinstance(result, dict) else None
        if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < count:
            message = f"a result names no document of the {count} that were sent"
            raise InvalidAnswerError(message)
        if place in scores:
            message = "a document has more than one score"
            raise InvalidAnswerError(message, kind="several")
        score = next((result[name] for name in _SCORES if name in result), None)
        if not isinstance(score, int | float) or isinstance(score, bool) or not isfinite(score):
            message = "a result has no relevance_score that is a finite number"
            raise InvalidAnswerError(message)
        scores[place] = float(score)
    if not scores:
        message = "there are no results"
        raise InvalidAnswerError(message, kind="empty")
    if len(scores) < count:
        message = f"{len(scores)} of {count} documents have a score: the endpoint cuts its answers (top_n)"
        raise InvalidAnswerError(message, kind="truncated")
    return [scores[place] for place in range(count)]


def _bare(said: str) -> str:
    """Without special tokens, one fence and one key around it."""
    said = _SPECIAL.sub("", said).strip()
    if (fenced := _FENCE.match(said)) is not None:
        said = fenced.group(2).strip()
    return _KEY.sub("", said).strip().strip("*_`").strip()


def _of_json(answer: str, said: str, *, strict: bool) -> list[int] | None:
    """The numbers of a JSON answer; None where it is none and need be none."""
    try:
        found = json.loads(said)
    except (ValueError, RecursionError):
        if strict:
            _refuse(answer, "truncated" if said[0] in "[{" and said[-1] not in "]}" else "not_json")
        return None
    if isinstance(found, dict):
        lists = [value for name, value in found.items() if str(name).lower() in _FIELDS and isinstance(value, list)]
        if len(lists) > 1:
            _refuse(answer, "several")
        found = lists[0] if lists else None
    if isinstance(found, int) and not isinstance(found, bool) and not strict:
        return [found]
    if not isinstance(found, list) or not all(isinstance(one, int) and not isinstance(one, bool) for one in found):
        if strict or not isinstance(found, list):
            _refuse(answer, "not_json" if strict else "off_list")
        return None
    return found


def _of_text(said: str) -> list[int] | None:
    """The numbers of an answer in text; None where it holds anything else."""
    if _CHAIN.fullmatch(said):
        return [int(one or other) for one, other in _ONE.findall(said)]
    lines = [line for line in said.splitlines() if line.strip()]
    for pattern in (_NUMBERED_LINE, _LINE, _ECHO_LINE):
        matches = [pattern.fullmatch(line) for line in lines]
        if all(matches):
            return [int(next(filter(None, match.groups()))) for match in matches if match is not None]
    return None


def _refuse(answer: str, kind: AnswerFault) -> NoReturn:
    message = f"the teacher's answer ({len(answer)} characters) {_PROBLEMS[kind]}"
    raise InvalidAnswerError(message, kind=kind)
