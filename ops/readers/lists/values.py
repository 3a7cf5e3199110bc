"""Values of logs of rankings: texts of documents, numbers, places, and the results of rerank endpoints."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ops.readers.columns import text_of
from ops.readers.shapes import opened

MAX_DOCUMENTS: Final = 1000
_TEXTS: Final = ("text", "content", "passage", "document", "body", "page_content", "title")
_IDS: Final = ("id", "doc_id", "docid", "document_id", "pid", "_id")
_SCORES: Final = ("relevance_score", "score", "relevance", "similarity")
_PLACES: Final = ("index", "document_index", "corpus_id")
_RESULTS: Final = ("results", "data", "rankings", "body", "response", "output")
_DEEPEST: Final = 4
_AROUND: Final = (
    *("request", "response", "body", "input", "output", "request_body", "response_body", "requestBody", "responseBody"),
    *("params", "teacher"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A teacher's answer to a list of n documents: scores of all of them, else places, best first, perhaps not all."""

    scores: tuple[float, ...] | None = None
    order: tuple[int, ...] | None = None


class UnreadableError(ValueError):
    """A value that cannot be read, and why, by its field; quotes nothing of it."""


def unfolded(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row with its requests and responses as objects, where a table holds them as JSON in a string."""
    folded = {name: opened(row[name]) for name in _AROUND if isinstance(row.get(name), str)}
    return {**row, **folded} if folded else row


def document_of(value: Any, depth: int = 0) -> str | None:
    """A document's text: a string, or an object with one; None: it has none."""
    if isinstance(value, Mapping) and depth < _DEEPEST:
        found = (document_of(value[name], depth + 1) for name in _TEXTS if value.get(name) is not None)
        return next((text for text in found if text is not None), None)
    return text_of(value) if isinstance(value, str) else None


def documents_of(value: Any, field: str) -> tuple[tuple[str, ...], dict[str, int]]:
    """The texts of a list of documents, and each one's place by its id where it has one.

    Raises:
        UnreadableError: it is no list of 1 to 1,000 documents with a text each.
    """
    value = opened(value)
    if not isinstance(value, list) or not value:
        message = f"no list of documents in {field}"
        raise UnreadableError(message)
    _check_count(len(value), field)
    texts, places = [], dict[str, int]()
    for place, one in enumerate(value):
        text = document_of(one)
        if text is None:
            message = f"{field}[{place}] has no text"
            raise UnreadableError(message)
        texts.append(text)
        own = next((one[name] for name in _IDS if name in one), None) if isinstance(one, Mapping) else None
        if own is not None:
            places.setdefault(str(own), place)
    return tuple(texts), places


def scores_of(value: Any, field: str, documents: Sequence[str], ids: Mapping[str, int]) -> Said:
    """Scores in the documents' order, by their ids, or as an endpoint's results, which may leave out the last ones.

    Raises:
        UnreadableError: it is nothing of these; the message names the field.
    """
    value = opened(value)
    results = results_of(value)
    if results is not None:
        return _of_results(results, field, documents, ids)
    if isinstance(value, Mapping):
        if set(value) != set(ids) or len(ids) != len(documents):
            message = f"{field} has not one score for each document's id"
            raise UnreadableError(message)
        value = [value[own] for own in sorted(ids, key=lambda own: ids[own])]
    if not isinstance(value, list):
        message = f"{field} is no list of scores"
        raise UnreadableError(message)
    if len(value) != len(documents):
        message = f"{field} has {len(value):,} scores for {len(documents):,} documents"
        raise UnreadableError(message)
    return Said(scores=tuple(number_of(one, f"{field}[{place}]") for place, one in enumerate(value)))


def order_of(value: Any, field: str, documents: Sequence[str], ids: Mapping[str, int]) -> Said:
    """Documents, best first: their places from 0, their ids or their texts; the last ones may be left out.

    Raises:
        UnreadableError: it is nothing of these; the message names the field.
    """
    value = opened(value)
    results = results_of(value)
    if results is not None:
        return _of_results(results, field, documents, ids)
    if not isinstance(value, list) or not value:
        message = f"{field} is no list of places"
        raise UnreadableError(message)
    texts = {text: place for place, text in reversed(list(enumerate(documents)))}
    order = [_place(one, f"{field}[{at}]", len(documents), ids, texts) for at, one in enumerate(value)]
    return Said(order=_distinct(order, field))


def results_of(value: Any, depth: int = 0) -> list[Any] | None:
    """The results in what a rerank endpoint answered; None: it is no such answer."""
    value = opened(value)
    if depth > _DEEPEST:
        return None
    if isinstance(value, Mapping):
        found = (results_of(value[name], depth + 1) for name in _RESULTS if name in value)
        return next((one for one in found if one is not None), None)
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return value if any(name in value[0] for name in (*_PLACES, *_SCORES)) else None
    return None


def number_of(value: Any, field: str) -> float:
    """A finite number, or one as a table spells it.

    Raises:
        UnreadableError: it is none; the message names the field.
    """
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        message = f"{field} is no finite number"
        raise UnreadableError(message)
    return number


def _of_results(results: Sequence[Any], field: str, documents: Sequence[str], ids: Mapping[str, int]) -> Said:
    """Scores where every document has one; else the order in which the results stand, by falling score."""
    texts = {text: place for place, text in reversed(list(enumerate(documents)))}
    found: list[tuple[int, float | None]] = []
    for at, one in enumerate(results):
        if not isinstance(one, Mapping):
            message = f"{field}[{at}] is no result"
            raise UnreadableError(message)
        named = next((one[name] for name in (*_PLACES, *_IDS) if one.get(name) is not None), one.get("document"))
        score = next((one[name] for name in _SCORES if one.get(name) is not None), None)
        place = _place(named, f"{field}[{at}].index", len(documents), ids, texts)
        found.append((place, None if score is None else number_of(score, f"{field}[{at}].relevance_score")))
    order = _distinct([place for place, _ in found], field)
    scores = {place: score for place, score in found if score is not None}
    if len(scores) == len(documents):
        return Said(scores=tuple(scores[place] for place in range(len(documents))))
    if len(scores) == len(found):  # whatever order they were written down in
        order = tuple(sorted(order, key=lambda place: -scores[place]))
    return Said(order=order)


def _place(value: Any, field: str, documents: int, ids: Mapping[str, int], texts: Mapping[str, int]) -> int:
    """A document's place: a whole number is a place before it is an id, anything else an id before it is a text."""
    number = _whole(value)
    if number is not None and 0 <= number < documents:
        return number
    if not isinstance(value, Mapping) and str(value) in ids:
        return ids[str(value)]
    if number is not None:
        message = f"{field} is the place of no document: they are 0 to {documents - 1}"
        raise UnreadableError(message)
    place = texts.get(document_of(value) or "")
    if place is None:
        message = f"{field} is no document's place, id or text"
        raise UnreadableError(message)
    return place


def _whole(value: Any) -> int | None:
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _distinct(order: Sequence[int], field: str) -> tuple[int, ...]:
    if len(set(order)) != len(order):
        message = f"{field} names a document twice"
        raise UnreadableError(message)
    return tuple(order)


def _check_count(documents: int, field: str) -> None:
    if documents > MAX_DOCUMENTS:
        message = f"{field} has {documents:,} documents, at most {MAX_DOCUMENTS:,} are ranked"
        raise UnreadableError(message)
