"""A client's own rendering of the lane's prompt, and the text that it asks about: found in time linear in its length.

Blanks count alike wherever they stand. What a client wrote for `$labels` may be another spelling of the list than ours.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import islice
from string import Template
from typing import Final

_MOST_TRIED: Final = 64  # places of a text's end, where a prompt holds it more than once


class Prompt:
    """A prompt of `classify`, with `$text` and perhaps `$labels`."""

    def __init__(self, prompt: str, labels: Sequence[str]) -> None:
        """Take it apart; with labels, what a client wrote for them is first taken to be just these."""
        parts = _parts(prompt)
        self._ways = [_filled(parts, "\n".join(labels)), parts] if labels else [parts]

    def text_in(self, said: str) -> str | None:
        """The text that the prompt was filled with to become `said`; None: it is no rendering of this prompt."""
        return next((text for parts in self._ways if (text := _found(parts, said.strip())) is not None), None)


@lru_cache(maxsize=256)
def prompt_of(prompt: str, labels: tuple[str, ...]) -> Prompt:
    """A lane's prompt, taken apart once."""
    return Prompt(prompt, labels)


class _Gap(str):
    """A place that a client fills in, by its name."""

    __slots__ = ()


def _parts(prompt: str) -> list[str]:
    """Literals and gaps in turn, a literal first and last; some may be empty."""
    parts, start = [""], 0
    for found in Template.pattern.finditer(prompt):
        parts[-1] += prompt[start : found.start()]
        start = found.end()
        name = found["named"] or found["braced"]
        if name is None:
            parts[-1] += "$"  # written $$
        else:
            parts += [_Gap(name), ""]
    parts[-1] += prompt[start:]
    return parts


def _filled(parts: Sequence[str], labels: str) -> list[str]:
    """The same with the labels filled in."""
    filled = [""]
    for part in parts:
        if isinstance(part, _Gap) and part == "text":
            filled += [part, ""]
        else:
            filled[-1] += labels if isinstance(part, _Gap) else part
    return filled


def _found(parts: Sequence[str], said: str) -> str | None:
    """What stands where the text does."""
    texts = [place for place, part in enumerate(parts) if isinstance(part, _Gap) and part == "text"]
    if not texts:
        return None
    before = _taken(parts[: texts[0]], said)
    after = _taken([_mirrored(part) for part in reversed(parts[texts[-1] + 1 :])], said[::-1])
    if before is None or after is None or before + after > len(said):
        return None
    return _once(parts[texts[0] + 1 : texts[-1]], said[before : len(said) - after].strip())


def _taken(parts: Sequence[str], said: str) -> int | None:
    """How many characters a prompt's beginning takes, the labels of it as few as possible; None: it is another."""
    place, after_gap = 0, False
    for part in parts:
        if isinstance(part, _Gap):
            after_gap = True
            continue
        words = part.split()
        if not words and after_gap:
            return None  # nothing tells where the labels end
        if words:
            literal = re.compile(r"\s+".join(map(re.escape, words)))
            found = literal.search(said, place) if after_gap else literal.match(said, place)
            if found is None:
                return None
            place = found.end()
    return place


def _mirrored(part: str) -> str:
    return _Gap(part) if isinstance(part, _Gap) else part[::-1]


def _once(between: Sequence[str], said: str) -> str | None:
    """The text itself, where the prompt holds it once, or again and again with literals between."""
    if not between:
        return said
    if not (words := between[0].split()) or any(isinstance(part, _Gap) and part != "text" for part in between):
        return None
    literal = re.compile(r"\s+".join(map(re.escape, words)))
    for found in islice(literal.finditer(said), _MOST_TRIED):
        text = said[: found.start()].strip()
        made = "".join([text, *(text if isinstance(part, _Gap) else part for part in between), text])
        if made.split() == said.split() or "".join(made.split()) == "".join(said.split()):
            return text
    return None
