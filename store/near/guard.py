"""What must be the same, word for word, before two texts may count as one question.

A guard knows one language. Only English has one so far: a text in another script, or without a single common English
word, has none, and is then never linked to anything but its exact self.
"""

import re
from typing import Final, NamedTuple


def _words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


_NEGATIONS: Final = _words(
    """
    not no never none nothing nobody nowhere neither nor without cannot cant dont doesnt didnt isnt arent wasnt werent
    wont wouldnt couldnt shouldnt havent hasnt hadnt aint unable
    """
)
_CURRENCIES: Final = _words(
    """
    dollar dollars usd euro euros eur pound pounds gbp quid yen jpy yuan cny franc francs chf rupee rupees inr peso
    pesos krona kronor cent cents pence penny bitcoin btc
    """
)
_NUMBERS: Final = _words(
    """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion first
    second third half twice double triple dozen
    """
)
_DIRECTIONS_AND_TIMES: Final = _words(
    """
    from before after until since above below over under more less increase decrease incoming outgoing enable disable
    activate deactivate add remove yesterday today tomorrow monday tuesday wednesday thursday friday saturday sunday
    unless except always
    """
)
_PROTECTED: Final = _NEGATIONS | _CURRENCIES | _NUMBERS | _DIRECTIONS_AND_TIMES
COMMON_WORDS: Final = _words(
    """
    a about after all also am and another any anyone anything are around as at back be because been before being but
    by can cannot could did do does doing done down else even ever every for from get gets getting give go going good
    got had has have having he hello help her here him his how i if im in into is isnt it its just keep know let like
    long look make many may me might more most much must my myself need never new next no not now of off ok on once
    one only or other our out over own please put really right said say see send set she should show since so some
    someone something still such take tell than thank thanks that thats the their them then there these they thing
    things this those through till time to today too try trying under until up us use used using very want wanted was
    way we well went were what whats when where whether which while who whom whose why will with without work would
    yes yet you your yours
    """
)
FILLERS: Final = _words(
    "the a an please pls thanks thank cheers hi hello hey good morning ok so um quick question asap"
)
"""Courtesies and articles: with or without them it is the same question."""

_TYPOGRAPHIC: Final = str.maketrans(
    {"\u2019": "'", "\u2018": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-", "\u2026": "."}
)
_SENTENCE_MARKS: Final = bytes.maketrans(b".,;:!?\"()[]{}-_'`/", b" " * 18)
_MEANT: Final = re.compile(r"[^a-z\s.,;:!?\"()\[\]{}\-_'`/]")  # a digit, or a symbol that is not punctuation
_MEANT_TOKEN: Final = re.compile(
    r"<[a-z_]+:[0-9a-f]+>"  # a redaction token
    r"|(?:(?<![^\s,;!?\"()\[\]{}])|(?<=>))"  # where a word begins: else a long one takes n * n steps
    r"[^\s,;!?\"()\[\]{}]*[^a-z\s.,;:!?\"()\[\]{}\-_'`/][^\s,;!?\"()\[\]{}]*"  # 1.5, 5%, 401k, c++
)
_OTHER_LETTER: Final = re.compile(r"[^\W\d_a-z]")


class Guarded(NamedTuple):
    """A text that has a guard."""

    key: str  # its protected tokens in order: only texts with equal keys may be linked
    words: tuple[str, ...]  # in lower case, without punctuation: what similarity is measured on


def guard(text: str) -> Guarded | None:
    """The text's protected tokens and its words; None where no guard knows the language."""
    folded = text.lower()
    if not folded.isascii():
        folded = folded.translate(_TYPOGRAPHIC)
        if _OTHER_LETTER.search(folded):
            return None
    spelt = folded.replace("n't", " not") if "n't" in folded else folded
    words = spelt.encode("utf-8", "replace").translate(_SENTENCE_MARKS).decode().split()
    if COMMON_WORDS.isdisjoint(words):
        return None
    key = " ".join(token.strip(".:-'_/`") for token in _MEANT_TOKEN.findall(folded)) if _MEANT.search(folded) else ""
    if not _PROTECTED.isdisjoint(words):
        key += " " + " ".join(["not" if word in _NEGATIONS else word for word in words if word in _PROTECTED])
    return Guarded(key, tuple(words))
