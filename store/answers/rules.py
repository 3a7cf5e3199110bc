"""How a lane's kept answers are read today: labels by rule, prompt versions that count, and which items are drawn.

Pure. What a person has said of one question comes before what the teacher said to it. Of labels today's list comes
first: a rule about a label that is on the list sleeps until it is taken off.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from store.buffer.item import Item

Unread = Literal["retired", "off_list"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What rulings come to."""

    prompts: frozenset[str] = frozenset()  # tally keys that count beside the present one, `model@prompt version`
    labels: Mapping[str, str | None] = field(default_factory=dict)  # older label -> as which it is read; None: retired
    by_hand: Mapping[str, str | None] = field(default_factory=dict)  # item id -> its answer by hand; None: dropped

    @property
    def earlier(self) -> tuple[str, ...]:
        """Labels that history may hold though today's list does not."""
        return tuple(self.labels)

    def read(self, said: str, today: Collection[str]) -> str | None:
        """As which of today's labels an answer is read; None: as none.

        Args:
            said: the label as it was given.
            today: the list; none: any label that no rule tells of.
        """
        passed: set[str] = set()
        label: str | None = said
        while label is not None and label not in passed:
            if label in today if today else label not in self.labels:
                return label
            passed.add(label)
            label = self.labels.get(label)
        return None

    def unread(self, said: str) -> Unread:
        """Why an answer is read as no label: retired by rule, or simply not on the list."""
        passed: set[str] = set()
        label: str | None = said
        while label is not None and label in self.labels and label not in passed:
            passed.add(label)
            label = self.labels[label]
        return "retired" if label is None else "off_list"


NO_RULES: Final = Rules()


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """Which items are drawn, and how their answers are read."""

    prompt_version: str  # the tally key of the present prompt, `model@prompt version`
    quarantine_s: float  # an item first asked less than so long ago is left out; 0: none is, whatever the clocks say
    now_s: float  # Unix seconds
    allowed_labels: frozenset[str] = frozenset()  # today's list: an answer off it is not learned; none: any
    rules: Rules = NO_RULES
    labelled: bool = True  # False: an answer is its event's own, and none is a label; prompts alone count

    def draws(self, item: Item) -> bool:
        """Whether the item is drawn."""
        return bool(self.answers(item)) and self.aged(item)

    def answers(self, item: Item) -> Mapping[str, int]:
        """The item's answers that count, as they are read today, with how often each was given."""
        return {label: n for label, n in self._read(item).items() if label is not None}

    def heard(self, item: Item) -> bool:
        """Whether anything that was said to the item counts today, however it is read."""
        return bool(self.counted(item))

    def counted(self, item: Item) -> Mapping[str, int]:
        """What was said to the item and counts today, as it was said, with how often; a person's word stands alone."""
        by_hand = self.rules.by_hand
        if item.item_id in by_hand:
            said = by_hand[item.item_id]
            return {} if said is None else {said: item.count}
        found: Counter[str] = Counter()
        for prompt, answers in item.tally.items():
            if self.counts(prompt):
                found.update(answers)
        return found

    def dropped(self, item: Item) -> bool:
        """Whether a person has dropped it."""
        return self.rules.by_hand.get(item.item_id, "") is None

    def corrected(self, item: Item) -> bool:
        """Whether a person has said what its answer is."""
        return self.rules.by_hand.get(item.item_id) is not None

    def counts(self, prompt: str) -> bool:
        """Whether answers of this prompt version count today."""
        return prompt == self.prompt_version or prompt in self.rules.prompts

    def read(self, said: str) -> str | None:
        """As which label an answer is read today; None: as none."""
        return self.rules.read(said, self.allowed_labels) if self.labelled else said

    def name(self, item: Item, answers: Mapping[str, int]) -> str:
        """Under which name an item with such answers is counted: its label, or its stratum where there are none."""
        return answer_of(answers) if self.labelled else item.stratum

    def has_retired(self, item: Item) -> bool:
        """Whether an answer that counts is retired."""
        return any(self.read(said) is None and self.rules.unread(said) == "retired" for said in self.counted(item))

    def aged(self, item: Item) -> bool:
        """Whether it is old enough."""
        return self.quarantine_s <= 0.0 or item.first_asked_s <= self.now_s - self.quarantine_s

    @property
    def digest(self) -> str:
        """The same for two drawings that read every answer alike."""
        labels = sorted(self.rules.labels.items(), key=str)
        parts: list[object] = [self.prompt_version, sorted(self.allowed_labels), sorted(self.rules.prompts), labels]
        if self.rules.by_hand:
            parts.append(sorted(self.rules.by_hand.items()))
        return f"{self.prompt_version}+{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"

    def _read(self, item: Item) -> dict[str | None, int]:
        found: dict[str | None, int] = {}
        for said, n in self.counted(item).items():
            label = self.read(said)
            found[label] = found.get(label, 0) + n
        return found


def answer_of(answers: Mapping[str, int]) -> str:
    """The most frequent answer; of equals the first in the alphabet."""
    return min(answers, key=lambda answer: (-answers[answer], answer))
