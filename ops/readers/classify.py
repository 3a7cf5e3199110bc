"""Logs of `classify`: a text and the label that the teacher gave it."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ops.readers.chats import has_system
from ops.readers.columns import Columns, find_columns, id_of, label_of, nothing_in, text_of, value_at
from ops.readers.files import BadRow, rows_of
from ops.readers.rows import PublishedRows, Told, key_of
from ops.readers.times import moment_of
from store.answers.rules import NO_RULES, Rules
from store.errors import InvalidAnswerError
from store.event import ClassifyEscalation, LabelAnswer, TextInput, canonical_text
from store.labels import listed

_SHOWN_SAID: Final = 40
_TEMPLATE_CHARS: Final = 24  # that every text begins with
_TEMPLATE_ROWS: Final = 10
_NO_LABEL: Final = {
    "empty": "is empty",
    "off_list": "is not one of the lane's labels",
    "several": "names more than one of the lane's labels",
    "not_json": "is not one of the lane's labels",
    "truncated": "was cut before it was one of the lane's labels",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRow:
    """One good row."""

    line: int
    key: str  # what makes it the same row when it is imported again
    text: str
    label: str
    time_s: float | None

    def event(self, facts: PublishedRows) -> ClassifyEscalation:
        """See `LogRow`."""
        return ClassifyEscalation(
            id=facts.id,
            time=facts.time,
            use_case=facts.lane.use_case,
            tenant=facts.lane.tenant,
            input=TextInput(text=self.text),
            teacher=LabelAnswer(model=facts.model, prompt_version=facts.prompt_version, label=self.label),
            student=None,
            escalation=facts.cause,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TextReader:
    """A log of texts and labels; see `Reader`."""

    path: Path
    found: Columns
    labels: Collection[str]
    rules: Rules

    @staticmethod
    def open(
        path: Path, named: Mapping[str, str], labels: Collection[str] = (), rules: Rules = NO_RULES
    ) -> "TextReader":
        """Find the columns; `labels` are those that count, in the lane's order.

        Raises:
            SettingsError: one cannot be told, or no row has the named one; the message names the flag.
        """
        found = find_columns(path, text=named.get("--text"), label=named.get("--label"))
        return TextReader(path=path, found=found, labels=labels, rules=rules)

    @property
    def columns(self) -> Mapping[str, str]:
        """See `Reader`."""
        return {"text": self.found.text, "label": self.found.label}

    def rows(self, told: Told) -> Iterator[TextRow | BadRow]:
        """See `Reader`."""
        return read_rows(self.path, self.found, self.labels, told, self.rules)


def read_rows(
    path: Path,
    columns: Columns,
    labels: Collection[str] | None,
    told: Told | None = None,
    rules: Rules = NO_RULES,
) -> Iterator[TextRow | BadRow]:
    """Every row of the file, good or bad, in order.

    Args:
        path: the file.
        columns: of `find_columns`.
        labels: those that count, in the lane's order; an answer is read as the gateway reads it. None: any.
        told: notes what is to be said of the rows as a whole, once all of them are read.
        rules: how labels are read that were on the list once; such an answer is kept as it was given.
    """
    reading = _Reading(
        columns=columns, known=None if labels is None else tuple(labels), rules=rules, told=told or Told()
    )
    for line, value in rows_of(path):
        yield value if isinstance(value, BadRow) else reading.row(line, value)
    reading.tell()


def read_call(call: Mapping[str, Any], labels: Collection[str], rules: Rules) -> TextRow | BadRow:
    """One call of a teacher; see `ops.readers.tasks.read_call`."""
    columns = Columns(text="text" if "text" in call else "request", label="response")
    return _Reading(columns=columns, known=tuple(labels), rules=rules, told=Told()).row(1, call)


class _Reading:
    """The rows of one file, as far as they were read; arguments as of `read_rows`."""

    def __init__(self, *, columns: Columns, known: tuple[str, ...] | None, rules: Rules, told: Told) -> None:
        self._columns, self._known, self._rules, self._told = columns, known, rules, told
        self._texts, self._seen = _Texts(columns=columns), dict[str, int]()

    def tell(self) -> None:
        """Say what is to be said of them as a whole."""
        self._texts.tell(self._told)

    def row(self, line: int, value: Any) -> TextRow | BadRow:
        """One row."""
        columns = self._columns
        if not isinstance(value, Mapping):
            return BadRow(line=line, why="not a JSON object")
        held = value_at(value, columns.text), value_at(value, columns.label)
        text, said = text_of(held[0]), label_of(held[1])
        if text is None:
            return BadRow(line=line, why=nothing_in(columns.text, held[0], "text"))
        if said is None:
            return BadRow(line=line, why=nothing_in(columns.label, held[1], "label"))
        return self._labelled(line, value, text, said)

    def _labelled(self, line: int, value: Mapping[str, Any], text: str, said: str) -> TextRow | BadRow:
        columns, known = self._columns, self._known
        label = _label(said, known, self._rules)
        if isinstance(label, InvalidAnswerError):
            self._texts.unread[said if len(said) <= _SHOWN_SAID else ""] += 1
            return BadRow(line=line, why=f"{columns.label} {_NO_LABEL[label.kind]}")
        if known and self._rules.read(label, known) is None:
            return BadRow(line=line, why=f"{columns.label} is a label that counts no more: a ruling tells so")
        moment = moment_of(value)
        if moment.fault == "outside":
            return BadRow(line=line, why=f"the time in {moment.column} is outside of the years 1 to 9999, UTC")
        self._told.row(moment)
        self._texts.row(text, said, label, value_at(value, columns.text))
        key = key_of(id_of(value), canonical_text(text), label, self._seen, self._told)
        return TextRow(line=line, key=key, text=text, label=label, time_s=moment.time_s)


def _label(said: str, known: tuple[str, ...] | None, rules: Rules) -> str | InvalidAnswerError:
    try:
        return said if known is None else listed(said, known, rules.earlier)
    except InvalidAnswerError as error:
        return error


@dataclass(slots=True, kw_only=True)
class _Texts:
    """What is to be said of texts and labels as a whole: counts of the rows that were good, but for `unread`."""

    columns: Columns
    rows: int = 0
    spelled: int = 0  # answers in another spelling than the list's
    unread: Counter[str] = field(default_factory=Counter)  # answers that are no label; "": long ones
    chats: int = 0  # texts that are the last turn of a chat
    around: int = 0  # of these, those with more turns, which are left out
    prefix: str | None = None  # that every text begins with

    def row(self, text: str, said: str, label: str, held: Any) -> None:
        """Note a good row; `held` is what its column of the text holds."""
        self.rows += 1
        self.spelled += said != label
        if not isinstance(held, str) or held is not text:
            self.chats += 1
            self.around += has_system(held)
        self.prefix = text if self.prefix is None else _common(self.prefix, text)

    def tell(self, told: Told) -> None:
        """Say it."""
        text, label = (name.replace("{", "{{").replace("}", "}}") for name in (self.columns.text, self.columns.label))
        templated = self.rows >= _TEMPLATE_ROWS and len((self.prefix or "").strip()) >= _TEMPLATE_CHARS
        told.remarks.update(
            {
                f"{{count}} texts are the last turn of the user in {text}": self.chats,
                "{count} of them have a system prompt or other turns around it, which are left out": self.around,
                f"every text begins with the same {len(self.prefix or '')} characters: a template around the question"
                " is learned as part of it; name the question's own column with --text": int(templated),
                f"{{count}} answers in {label} were in another spelling than the lane's list": self.spelled,
                f"{{count}} answers in {label} are none of the lane's labels": self.unread.total(),
            }
        )


def _common(one: str, other: str) -> str:
    """What both begin with."""
    length = next((place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
    return one[: min(len(one), len(other)) if length is None else length]
