"""What stands around an answer: thinking, special tokens, fences, markup, quotes, `Label:`. Each layer comes off alone.

Whole answers (up to a mebibyte) are only ever read from end to end, a fixed number of times; layers are taken off what
is left once it is short enough to be a label. So reading is linear in whatever a teacher writes.
"""

import html
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

QUOTES: Final = "\"'`´“”„‟‘’‚‛«»‹›「」『』"  # noqa: RUF001 - the typographic ones, too
_STOPS: Final = ".,;:!?。、，；：！？．｡،؛؟।"  # noqa: RUF001 - what may end a sentence, in any script
_BLANK_OUT: Final = (  # never seen: zero widths, marks of direction, soft hyphens, variation selectors, tags, NUL
    *(0x0B, 0x0C, 0x7F, 0xAD, 0x034F, 0x061C, 0x180E, 0xFEFF, 0xFFFC),
    *range(0x09),
    *range(0x0E, 0x20),
    *range(0x200B, 0x2010),
    *range(0x202A, 0x202F),
    *range(0x2060, 0x2070),
    *range(0xFE00, 0xFE10),
    *range(0xE0000, 0xE0080),
)
_CLEAN: Final[dict[int, str | None]] = {
    **dict.fromkeys(_BLANK_OUT),
    **{0xFF01 + place: chr(0x21 + place) for place in range(94)},  # full width
    0x3000: " ",
    **dict.fromkeys((0x85, 0x2028, 0x2029), "\n"),
}
_BLANKS: Final = re.compile(r"[^\S\n]+")
_LINE_ENDS: Final = re.compile(r" ?\n[\n ]*")
_THINKING: Final = re.compile(
    r"<(/?)(?:seed:)?(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|scratch_?pad|analysis|cot)"
    r"(?: [^<>\n]{0,100})?/?>|\[(/?)THINK\]|◁(/?)think▷|<\|(?:begin|(end))_of_thought\|>|(\.\.\.done thinking\.)",
    re.IGNORECASE,
)
_FINAL_CHANNEL: Final = re.compile(r"<\|channel\|> ?final(?: [^<]{0,40})?<\|message\|>")
_SPECIAL: Final = (
    r"(?:<\|(?:im_start|start|start_header_id)\|> ?assistant\b ?(?:<\|(?:end_header_id|message)\|>)?"
    r"|<\|[^|<>\s]{1,40}\|>|</?s>|<(?:bos|eos|pad|unk)>|<start_of_turn> ?(?:model\b)?|<end_of_turn>"
    r"|\[/?INST\]|<</?SYS>>|\[/?(?:BOS|EOS|PAD|CLS|SEP)\])"
)
_LEADING_TOKENS: Final = re.compile(rf"(?:\s*{_SPECIAL})+")
_TRAILING_TOKENS: Final = re.compile(rf"(?:{_SPECIAL}\s*)+\Z")
_LONGEST_TOKENS: Final = 400  # characters at the end that are searched for them
_FENCE: Final = re.compile(r"(`{3,}|~{3,})([^\n`~]*)(\n|\Z)?")
_LANGUAGES: Final = frozenset(
    (
        "text",
        "txt",
        "plain",
        "plaintext",
        "json",
        "json5",
        "jsonc",
        "markdown",
        "md",
        "output",
        "label",
        "answer",
        "yaml",
        "xml",
        "html",
        "python",
        "csv",
        "none",
    )
)
_TAG: Final = re.compile(r"<([A-Za-z][\w:.-]{0,40})(?: [^<>]{0,200})?>")
_TAKEN_BACK: Final = frozenset(
    ("del", "strike", "not", "wrong", "incorrect", "rejected", "alternative", "alternatives")
)  # tags
_VOID_TAG: Final = re.compile(r"<(?:br|hr|p|/p) ?/?>", re.IGNORECASE)
_LATEX: Final = re.compile(r"\\(?:boxed|text(?:bf|it|tt|rm)?|mathrm|mathbf|fbox) ?\{(.*)\}", re.DOTALL)
_BRACKETS: Final = {"(": ")", "[": "]", "{": "}", "<": ">", "【": "】", "〈": "〉", "《": "》", "$": "$", "|": "|"}
_EMPHASIS: Final = "*_~=`"
_LINE_MARK: Final = re.compile(
    r"(?:#{1,6}|[-*+–—]|>{1,3}|\(?\d{1,3}[.):]|\(?[A-Za-z]\)|\[[xX✓]\]) |(?:[•◦‣·→⇒➡➜👉✅✔☑✓]|-{1,2}>|=>) ?"  # noqa: RUF001 - dashes, too
)
_BULLETS: Final = ("* ", "- ", "+ ")
_TICKS: Final = "✅✔☑✓ "
_KEYS: Final = (
    "labels?|categor(?:y|ies)|class(?:es|ification)?|intents?|answer|output|result|response|prediction|sentiment|topic"
    "|type|tags?|emotion|verdict|decision|choice|étiquette|catégorie|réponse|etiqueta|categoría|respuesta|kategorie"
    "|antwort|klasse|etichetta|risposta|rótulo|categoria|resposta|categorie|antwoord|etykieta|kategoria|odpowiedź|etiket"
    "|метка|категория|ответ|标签|类别|答案|分类|ラベル|カテゴリ|回答|라벨|분류|카테고리|답변|التصنيف|الفئة"
)
_QUALIFIERS: Final = (
    "final|correct|best|right|predicted|chosen|selected|assigned|appropriate|likely|most[ ]appropriate|most[ ]likely"
)
_KEYED: Final = re.compile(
    rf"""["'`*_]*(?:(?:sure|certainly|of course|ok(?:ay)?|absolutely|great|done)\b[ !,.:-]*)?
    (?:(?:so|therefore|thus|hence),?\ )?(?:here(?:['\u2019]s|\ is)\ )?(?:(?:the|my|your)\ )?(?:(?:{_QUALIFIERS})\ )*
    (?:{_KEYS}|(?:assistant|model|bot|ai)(?=\ ?[:\n]))(?:\(s\))?
    (?:\ (?:you\ asked\ for|for\ (?:this|the)\ (?:message|text|input|question|request|ticket)))?
    (?:\ (?:is|would\ be))?
    (?:["'`*_]*\ ?(?:[:=]|-{{1,2}}>|=>|[→⇒➡]|\ ?[-\u2013\u2014]\ |\n)["'*_]*[ \n]?|(?<=\ is)\ |(?<=\ be)\ )""",
    re.IGNORECASE | re.VERBOSE,
)
_EXPLAINS: Final = re.compile(
    r"[#>*_`\"' -]*<?(?:reason(?:ing|s)?|think(?:ing)?|thought process|step \d{1,2}"
    r"|explanation|rationale|justification|why|because|confidence|probability|score"
    r"|certainty|notes?|comment|evidence|analysis|thoughts?|begründung|raison|motivo|explicación|理由)[*_`\"']* ?[:=>]",
    re.IGNORECASE,
)
_RULE: Final = re.compile(r"[-*_=#]{3,}")
_LAYERS: Final = 40
_BESIDE: Final = re.compile(r"(</[A-Za-z][\w:.-]{0,40}>)[ \n]?(<[A-Za-z])")
_CDATA: Final = re.compile(r"<!\[CDATA\[(.*)\]\]>", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """An answer with some of its layers off."""

    text: str
    is_open: bool = False  # a layer that was taken off had no end: what is left may have been cut
    aside: str = ""  # what stood behind it in parentheses
    marks: tuple[str, ...] = ()  # of a list, a heading or a choice, that were taken off


Layer = Callable[[str], Stage | None]  # a text with that layer off; None, or the same text: it has none


def clean(text: str) -> str:
    """Without what cannot be seen, full-width letters as usual ones, every run of blanks as one blank or line end."""
    return _LINE_ENDS.sub("\n", _BLANKS.sub(" ", text.translate(_CLEAN).replace("\r", "\n"))).strip()


def without_thinking(text: str) -> str | None:
    """What was said after or beside the thinking; None: the thinking has no end, so nothing was said yet.

    A closing tag alone ends what stands before it: many endpoints open the thinking themselves.
    """
    for found in _FINAL_CHANNEL.finditer(text):
        text = text[found.end() :]
        break
    said: list[str] = []
    thinking, place = False, 0
    for tag in _THINKING.finditer(text):
        if tag[0].endswith("/>"):
            if not thinking:
                said.append(text[place : tag.start()])
                place = tag.end()
            continue
        if not any(tag.groups()):
            if not thinking:
                said.append(text[place : tag.start()])
            thinking = True
            continue
        if not thinking:
            said.clear()
        thinking, place = False, tag.end()
    return None if thinking else "".join([*said, text[place:]]).strip()


def stages(text: str, more: Sequence[Layer] = ()) -> Iterator[Stage]:
    """The text, then with one layer more taken off each time, while there is one; `more` layers are tried last."""
    stage = Stage(text=text)
    for _ in range(_LAYERS):
        yield stage
        inner = _peeled(stage.text, more)
        if inner is None or inner.text == stage.text:
            return
        stage = Stage(
            text=inner.text,
            is_open=stage.is_open or inner.is_open,
            aside=f"{stage.aside} {inner.aside}".strip(),
            marks=(*stage.marks, *inner.marks),
        )


def keyed(line: str) -> bool:
    """Whether a line says of itself that it is the label, as `Label: refund`."""
    return _KEYED.match(line) is not None


def explains(line: str) -> bool:
    """Whether a line says of itself that it is a reason, a score or a note."""
    return _EXPLAINS.match(line) is not None


def is_rule(line: str) -> bool:
    """Whether a line is a mere rule, as `---`."""
    return _RULE.fullmatch(line) is not None


def trails_off(text: str) -> bool:
    """Whether it ends in an ellipsis: cut, or not sure."""
    return text.rstrip(QUOTES + " ").endswith(("..", "…"))


def apart(text: str) -> str:
    """The text with each of several elements of XML, side by side, on a line of its own."""
    return _BESIDE.sub(r"\1\n\2", text)


def _peeled(text: str, more: Sequence[Layer]) -> Stage | None:
    """One layer less; None: there is none."""
    if (stripped := text.strip()) != text:
        return Stage(text=stripped)
    if not text:
        return None
    for layer in (*_ALWAYS, *more):
        found = layer(text)
        if found is not None and found.text != text:
            return found
    return None


def _tokens(text: str) -> Stage | None:
    start = _LEADING_TOKENS.match(text)
    text = text[start.end() :] if start else text
    end = _TRAILING_TOKENS.search(text[-_LONGEST_TOKENS:])
    return Stage(text=text[: len(text) - len(end[0])] if end else text)


def _fence(text: str) -> Stage | None:
    opened = _FENCE.match(text)
    if opened is None:
        return None
    mark, info = opened[1], opened[2]
    body = text[opened.end() :] if opened[3] == "\n" else text[len(mark) :]
    closed = body.rstrip().endswith(mark[0] * 3)
    body = body.rstrip().rstrip(mark[0]) if closed else body
    first, _, rest = body.partition(" ")
    if opened[3] != "\n" and first.lower() in _LANGUAGES and rest:
        body = rest
    elif opened[3] == "\n" and not body.strip():
        body = info
    return Stage(text=body)


def _tags(text: str) -> Stage | None:
    if (opened := _TAG.match(text)) and opened[1].casefold() in _TAKEN_BACK:
        return None
    if opened:
        end = f"</{opened[1]}>"
        if text.casefold().endswith(end.casefold()):
            return Stage(text=text[opened.end() : -len(end)])
    if void := _VOID_TAG.match(text):
        return Stage(text=text[void.end() :])
    last = text.rfind("<")
    if last > 0 and _VOID_TAG.fullmatch(text, last):
        return Stage(text=text[:last])
    if inner := _LATEX.fullmatch(text) or _CDATA.fullmatch(text):
        return Stage(text=inner[1])
    return None


def _quotes(text: str) -> Stage | None:
    return Stage(text=text.strip(QUOTES), is_open=text[0] in QUOTES and text[-1] not in QUOTES + _STOPS)


def _emphasis(text: str) -> Stage | None:
    if text.startswith("~~"):
        return None  # struck out: it is not the answer
    if len(text) > 2 and text[0] == text[-1] and text[0] in _EMPHASIS and text[1] != " ":  # noqa: PLR2004 - "* a" is a list
        return Stage(text=text[1:-1])
    return None


def _brackets(text: str) -> Stage | None:
    if len(text) > 2 and _BRACKETS.get(text[0]) == text[-1] and not (text[0] == "<" and "<" in text[1:]):  # noqa: PLR2004
        return Stage(text=text[1:-1])
    return None


def _marks(text: str) -> Stage | None:
    mark = _LINE_MARK.match(text)
    text = text[mark.end() :] if mark else text
    return Stage(text=text.lstrip("¡¿").rstrip(_TICKS), marks=(mark[0].strip(),) if mark else ())


def _key(text: str) -> Stage | None:
    found = _KEYED.match(text)
    return Stage(text=text[found.end() :]) if found else None


def _stops(text: str) -> Stage | None:
    return None if trails_off(text) else Stage(text=text.rstrip(_STOPS))


def _entities(text: str) -> Stage:
    return Stage(text=html.unescape(text))


def _bullet(text: str) -> Stage | None:
    """Of `* **refund**`: the mark of the list before the emphasis."""
    return Stage(text=text[2:], marks=(text[0],)) if text[:2] in _BULLETS else None


_ALWAYS: Final = (_tokens, _fence, _tags, _bullet, _emphasis, _key, _quotes, _brackets, _marks, _stops, _entities)
