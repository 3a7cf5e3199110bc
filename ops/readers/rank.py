"""Logs of `rank`: a query, its documents and the teacher's scores or order, a list a row or a document a row."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ops.readers.files import BadRow
from ops.readers.lists.columns import ListColumns, find_list_columns
from ops.readers.lists.rows import ListRow, read_lists
from ops.readers.lists.spread import Spread
from ops.readers.rows import Told
from store.answers.rules import Rules


@dataclass(frozen=True, slots=True, kw_only=True)
class ListReader:
    """A log of lists; see `Reader`."""

    path: Path
    found: ListColumns

    @staticmethod
    def open(path: Path, named: Mapping[str, str], labels: Collection[str], rules: Rules) -> "ListReader":
        """Find the columns; a ranking lane has no labels, and no rules of how they are read.

        Raises:
            SettingsError: one cannot be told, or no row has the named one; the message names the flag.
        """
        del labels, rules
        return ListReader(path=path, found=find_list_columns(path, named))

    @property
    def columns(self) -> Mapping[str, str]:
        """See `Reader`."""
        found = self.found
        named = {
            "query": found.query,
            "documents": found.documents,
            "scores": found.scores,
            "order": found.order if found.scores is None else None,
            "a list is": found.query_id,
        }
        return {what: column for what, column in named.items() if column is not None}

    def rows(self, told: Told) -> Iterator[ListRow | BadRow]:
        """See `Reader`; a list without an answer is a bad row here."""
        lists = orders = cut = 0
        spread = Spread()
        for row in read_lists(self.path, self.found, told):
            if isinstance(row, ListRow) and row.said is None:
                column = self.found.scores or self.found.order
                yield BadRow(line=row.line, why=f"no answer in {column}")
                continue
            if isinstance(row, ListRow) and row.said is not None:
                told.row(row.moment)
                lists += 1
                orders += row.said.scores is None
                spread.add(row.question, row.documents, row.said)
                cut += row.said.order is not None and len(row.said.order) < len(row.documents)
            yield row
        told.remarks.update(
            {
                f"{{count}} of {lists:,} lists have an order and no scores: a tolerance of scores says nothing about"
                " them": orders,
                "{count} lists have an answer for their first documents alone (top_n): it is kept as an order, in which"
                " the others share the last places": cut,
                spread.told: int(bool(spread.told)),
            }
        )
