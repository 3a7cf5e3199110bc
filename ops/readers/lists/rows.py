"""The lists of a log of rankings, good or bad, whichever way they are written down."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ops.readers.columns import ID_COLUMNS, id_of, is_missing, nothing_in, text_of, value_at
from ops.readers.files import BadRow, rows_of
from ops.readers.lists.columns import ListColumns
from ops.readers.lists.values import (
    MAX_DOCUMENTS,
    Said,
    UnreadableError,
    documents_of,
    number_of,
    order_of,
    scores_of,
    unfolded,
)
from ops.readers.rows import PublishedRows, Told, key_of
from ops.readers.times import TIME_COLUMNS, Moment, moment_of
from store.event import RankAnswer, RankEscalation, RankInput
from store.tasks.rank import RankRules


@dataclass(frozen=True, slots=True, kw_only=True)
class ListRow:
    """One good list."""

    line: int
    key: str  # what makes it the same row when it is imported again
    query: str
    documents: tuple[str, ...]
    said: Said | None  # None: there is no answer
    id: str | None
    moment: Moment

    @property
    def time_s(self) -> float | None:
        """When it was asked, Unix seconds."""
        return self.moment.time_s

    @property
    def input(self) -> RankInput:
        """The question as it stands there."""
        return RankInput(query=self.query, documents=list(self.documents))

    @property
    def question(self) -> str:
        """The same for two lists that are one question."""
        return "\x1f".join(RankRules().parts(self.input))

    def event(self, facts: PublishedRows) -> RankEscalation:
        """See `LogRow`."""
        if self.said is None:
            message = "a list without an answer is no escalation"
            raise ValueError(message)
        scores, order = self.said.scores, self.said.order
        return RankEscalation(
            id=facts.id,
            time=facts.time,
            use_case=facts.lane.use_case,
            tenant=facts.lane.tenant,
            input=self.input,
            teacher=RankAnswer(
                model=facts.model,
                prompt_version=facts.prompt_version,
                scores=None if scores is None else list(scores),
                order=None if order is None else list(order),
            ),
            student=None,
            escalation=facts.cause,
        )


def read_lists(
    path: Path,
    columns: ListColumns,
    told: Told | None = None,
    *,
    ids: tuple[str, ...] = ID_COLUMNS,
    times: tuple[str, ...] = TIME_COLUMNS,
) -> Iterator[ListRow | BadRow]:
    """Every list of the file, good or bad; those of a document a row in the order of their first rows.

    Args:
        path: the file.
        columns: of `find_list_columns`.
        told: notes ids.
        ids: columns of a row's id.
        times: columns of its time.
    """
    told, seen = told or Told(), dict[str, int]()
    found = _grouped(path, columns, ids, times) if columns.long else _listed(path, columns, ids, times)
    for row in found:
        yield row if isinstance(row, BadRow) else _keyed(row, seen, told)


def read_call(call: Mapping[str, Any]) -> ListRow | BadRow:
    """One call of a rerank endpoint: `request` with what it answered, `response`."""
    columns = ListColumns(query="request.query", documents="request.documents", scores="response", order=None)
    try:
        row = _list(1, unfolded(call), columns, ID_COLUMNS, TIME_COLUMNS)
    except UnreadableError as error:
        return BadRow(line=1, why=str(error))
    return BadRow(line=1, why="no answer in response") if row.said is None else _keyed(row, {}, Told())


def _keyed(row: ListRow, seen: dict[str, int], told: Told) -> ListRow | BadRow:
    if row.moment.fault == "outside":
        why = f"the time in {row.moment.column} is outside of the years 1 to 9999, UTC"
        return BadRow(line=row.line, why=why)
    return replace(row, key=key_of(row.id, row.question, repr(row.said), seen, told))


def _listed(
    path: Path, columns: ListColumns, ids: tuple[str, ...], times: tuple[str, ...]
) -> Iterator[ListRow | BadRow]:
    for line, value in rows_of(path):
        if isinstance(value, BadRow):
            yield value
        elif not isinstance(value, Mapping):
            yield BadRow(line=line, why="not a JSON object")
        else:
            try:
                yield _list(line, unfolded(value), columns, ids, times)
            except UnreadableError as error:
                yield BadRow(line=line, why=str(error))


def _list(
    line: int, row: Mapping[str, Any], columns: ListColumns, ids: tuple[str, ...], times: tuple[str, ...]
) -> ListRow:
    query = text_of(held := value_at(row, columns.query))
    if query is None:
        raise UnreadableError(nothing_in(columns.query, held, "query"))
    texts, places = documents_of(value_at(row, columns.documents), columns.documents)
    said = None
    for column, read in ((columns.scores, scores_of), (columns.order, order_of)):
        value = None if column is None else value_at(row, column)
        if column is not None and not is_missing(value):
            said = read(value, column, texts, places)
            break
    return ListRow(
        line=line, key="", query=query, documents=texts, said=said, id=id_of(row, ids), moment=moment_of(row, times)
    )


@dataclass(slots=True, kw_only=True)
class _Group:
    """The rows of one list, so far."""

    line: int
    query: str
    id: str | None
    moment: Moment
    texts: list[str] = field(default_factory=list)
    scores: list[float | None] = field(default_factory=list)
    ranks: list[float | None] = field(default_factory=list)
    bad: BadRow | None = None  # why the list cannot be used: its first bad row


def _grouped(
    path: Path, columns: ListColumns, ids: tuple[str, ...], times: tuple[str, ...]
) -> Iterator[ListRow | BadRow]:
    groups: dict[str, _Group] = {}
    for line, value in rows_of(path):
        if isinstance(value, BadRow):
            yield value
            continue
        if not isinstance(value, Mapping):
            yield BadRow(line=line, why="not a JSON object")
            continue
        query = text_of(held := value_at(value, columns.query))
        own = query if columns.query_id is None else value_at(value, columns.query_id)
        if query is None or is_missing(own):
            what = nothing_in(columns.query, held, "query") if query is None else f"no id in {columns.query_id}"
            yield BadRow(line=line, why=what)
            continue
        moment = moment_of(value, times)
        named = str(own) if columns.query_id is not None else id_of(value, ids)
        group = groups.setdefault(str(own), _Group(line=line, query=query, id=named, moment=moment))
        try:
            _add(group, value, columns, query)
        except UnreadableError as error:
            group.bad = group.bad or BadRow(line=line, why=f"{error}: its list is left out")
    for group in groups.values():
        yield group.bad or _whole(group)


def _add(group: _Group, row: Mapping[str, Any], columns: ListColumns, query: str) -> None:
    """Put a row's document into its list."""
    text = text_of(value_at(row, columns.documents))
    if text is None:
        raise UnreadableError(nothing_in(columns.documents, value_at(row, columns.documents), "document"))
    if query != group.query:
        message = f"another query in {columns.query} than the other rows of this {columns.query_id}"
        raise UnreadableError(message)
    values = [None if column is None else value_at(row, column) for column in (columns.scores, columns.order)]
    score, rank = (
        None if column is None or is_missing(value) else number_of(value, column)
        for column, value in zip((columns.scores, columns.order), values, strict=True)
    )
    group.texts.append(text)
    group.scores.append(score)
    group.ranks.append(rank)


def _whole(group: _Group) -> ListRow | BadRow:
    """A list from its rows: by scores where each has one, else by those that have a score or a rank."""
    if len(group.texts) > MAX_DOCUMENTS:
        why = f"{len(group.texts):,} documents in its list, at most {MAX_DOCUMENTS:,} are ranked"
        return BadRow(line=group.line, why=why)
    scores = [score for score in group.scores if score is not None]
    said = None
    if len(scores) == len(group.texts):
        said = Said(scores=tuple(scores))
    else:
        worth = group.scores if scores else [None if r is None else -r for r in group.ranks]
        known = [(place, value) for place, value in enumerate(worth) if value is not None]
        if known:
            said = Said(order=tuple(place for place, _ in sorted(known, key=lambda one: -one[1])))
    return ListRow(
        line=group.line,
        key="",
        query=group.query,
        documents=tuple(group.texts),
        said=said,
        id=group.id,
        moment=group.moment,
    )
