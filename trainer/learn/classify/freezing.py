"""How items of `classify` become rows: which labels there are to tell apart, and which questions are one."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from store.answers.rules import answer_of
from store.event import TaskInput
from store.near.link import Links, link
from store.tasks.classify import ClassifyRules
from trainer.snapshot import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFreezing:
    """Satisfies `trainer.snapshot.Freezing`."""

    labels_min: int  # items that a new label needs to enter the label map
    known: Sequence[str] = ()  # the champion's label map: these stay, in this order
    rules: ClassifyRules = field(default_factory=ClassifyRules)

    def words(self, value: TaskInput) -> str:
        """The canonical text."""
        return self.rules.words(value)

    def label(self, answers: Mapping[str, int]) -> str:
        """The most frequent answer; of equals the first in the alphabet."""
        return answer_of(answers)

    def soft(self, answers: Mapping[str, int]) -> dict[str, float] | None:
        """Each answer's share, where there are several."""
        total = sum(answers.values())
        return {answer: n / total for answer, n in sorted(answers.items())} if self.conflicted(answers) else None

    def conflicted(self, answers: Mapping[str, int]) -> bool:
        """Whether there are several."""
        return self.rules.conflicted(answers)

    def links(self, rows: Sequence[Row]) -> Links:
        """Near-duplicates that were answered alike."""
        return link([row.words for row in rows], [row.label for row in rows])

    def labels(self, rows: Sequence[Row]) -> tuple[str, ...]:
        """Known labels in their order, then those with enough items (of any split) and something to learn from."""
        items = Counter(row.label for row in rows)
        learned = {row.label for row in rows if row.split == "train"}
        new = sorted(label for label in learned if items[label] >= self.labels_min and label not in self.known)
        return (*self.known, *new)

    def learns(self, row: Row, labels: Collection[str]) -> bool:
        """Whether its label is in the map."""
        return row.label in labels
