"""The field `label` of the JSON objects in an answer, with whatever prose stands around them. Linear in any text.

Read more widely than JSON is written: line ends in strings, NaN and lone surrogates in fields that nobody reads, single
quotes, a comma or a brace too few. Never more widely than a label that was surely said to its end.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

_KEY: Final = "label"
_CALLS: Final = ("function", "tool_calls", "arguments", "parameters", "input")  # on the way into a call of a tool
_CALLED: Final = frozenset(("name", "function", "tool_calls"))
_AROUND: Final = frozenset(("answer", "classification", "output", "prediction", "response", "result"))
_DEEPEST_CALL: Final = 4
_MARK: Final = re.compile(r'\\.|["{}]', re.DOTALL)
_UNCLOSED_TRIES: Final = 4  # a brace in the prose before an object; more of them are no answer
_LONGEST_SCANNED_CHARS: Final = 1 << 17  # for objects; a longer text is one object, or none
_LOOSE: Final = re.compile(
    r"""(?<![\w.])["'“‘]?label["'”’]?\s{0,20}[:=]\s{0,20}(?:"([^"\n\\]{1,500})"|'([^'\n\\]{1,500})'|“([^”\n]{1,500})”|`([^`\n\\]{1,500})`)""",  # noqa: RUF001 - typographic ones, too
    re.IGNORECASE,
)
_BARE: Final = re.compile(  # as YAML has it, or an object without quotes
    r"""^[\s{]{0,20}(?:-\ )?["'“‘]?label["'”’]?[ \t]{0,20}:[ \t]{1,20}
    ([^\s"'“‘`{}\[\],][^"“‘`{}\[\],\n]{0,200})[ \t]{0,20}(?=[,}\n]|\Z)""",  # noqa: RUF001 - as above
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
_SEEN: Final = re.compile(r"""["'“‘{]\s{0,20}label["'”’]?\s{0,20}[:=]""", re.IGNORECASE)  # noqa: RUF001 - as above
_UNSAID_BEFORE: Final = re.compile(
    r"(?:\b(?:not|never|than|instead of|for example|e\.g\.|such as)|n['\u2019]t(?: be)?)"
    r"[\s:,`]{0,10}(?:json)?[\s`]{0,10}\Z",
    re.IGNORECASE,
)
_UNSAID_AFTER: Final = re.compile(
    r"\A[\s`]{0,10}(?:(?:is|was|would be)(?: the)? (?:not|wrong|incorrect|false)|(?:isn|wasn|wouldn)['\u2019]t)\b",
    re.IGNORECASE,
)
_BESIDE_CHARS: Final = 60
_decoder: Final = json.JSONDecoder(
    strict=False,  # line ends inside strings
    parse_int=str,  # as they are spelled: a number with a million digits is read by nobody
    parse_float=str,
    object_pairs_hook=list,
)


def labels_in(text: str) -> list[str]:
    """What the field `label` of each object holds, in the text's order; empty: no object has one that can be read."""
    found: list[str] = []
    read = False
    for body in _objects(text) if len(text) <= _LONGEST_SCANNED_CHARS else [text]:
        try:
            pairs = _decoder.decode(body)
            read = True
        except (ValueError, RecursionError):
            found += _loosely(body[:_LONGEST_SCANNED_CHARS])
            continue
        found += _fields(pairs, 0)
    return found if found or read else _loosely(text[:_LONGEST_SCANNED_CHARS])


def unsaid(text: str) -> bool:
    """Whether the prose right beside an object takes it back, or says that it is only an example."""
    start, end = text.find("{"), text.rfind("}") + 1
    before, after = text[max(start - _BESIDE_CHARS, 0) : max(start, 0)], text[end : end + _BESIDE_CHARS]
    return _UNSAID_BEFORE.search(before) is not None or (end > 0 and _UNSAID_AFTER.search(after) is not None)


def _fields(value: Any, depth: int) -> list[str]:
    """The labels of an object, or of the call of a tool that it is, or of the answer that it says it has inside."""
    if isinstance(value, str) and depth:  # a call's arguments are JSON inside of a string
        return labels_in(value) if depth <= _DEEPEST_CALL and value.lstrip().startswith("{") else []
    if not isinstance(value, list) or depth > _DEEPEST_CALL:
        return []
    pairs = [pair for pair in value if _is_pair(pair)]
    found = [spelled for key, one in pairs if key.strip().casefold() == _KEY if (spelled := _spelled(one))]
    if found:
        return found
    names = _CALLS if _CALLED & {key for key, _ in pairs} else _AROUND
    inner = [one for key, one in pairs if key.strip().casefold() in names]
    return [label for one in inner for part in (one if _is_array(one) else [one]) for label in _fields(part, depth + 1)]


def _is_array(value: Any) -> bool:
    return isinstance(value, list) and not any(map(_is_pair, value))


def cut_short(text: str) -> bool:
    """Whether a field `label` begins and its value does not end."""
    return not text.endswith(("}", "]")) and _SEEN.search(text[:_LONGEST_SCANNED_CHARS]) is not None


def _is_pair(one: Any) -> bool:
    return isinstance(one, tuple)  # as object_pairs_hook makes them; an array's entries are none


def _spelled(value: Any) -> str | None:
    """A value as a label; an array of one is that one. None: it is none."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else None


def _loosely(text: str) -> list[str]:
    quoted = [next(value for value in found if value) for found in _LOOSE.findall(text)]
    return quoted or _BARE.findall(text)


def _objects(text: str) -> Iterator[str]:
    """The outermost `{…}` of the text; braces inside of strings are none."""
    start = text.find("{")
    for _ in range(_UNCLOSED_TRIES):
        depth, quoted = 0, False
        for mark in _MARK.finditer(text, max(start, 0)):
            if mark[0] == '"':
                quoted = depth > 0 and not quoted
            elif quoted or mark[0][0] == "\\":
                continue
            elif mark[0] == "{":
                start = mark.start() if depth == 0 else start
                depth += 1
            elif depth > 0:
                depth -= 1
                if depth == 0:
                    yield text[start : mark.end()]
        if depth == 0:
            return
        start = text.find("{", start + 1)  # that one is never closed: an object may stand inside of it
