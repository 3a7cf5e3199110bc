"""What an operator decides about older answers: signed rulings, and what is to be changed in the settings with them."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from ops.exits import RefusedError
from ops.rulings.decision import Decided, DraftRuling, listing, told
from ops.sections import LaneSection
from store.answers.census import Census
from store.answers.rulings import Ruling, in_force, rules_of
from store.answers.spellings import wrong_labels
from store.errors import InvalidAnswerError
from store.labels import listed

_RESTART: Final = "then restart ingest first, and after it the trainer and the gateways"


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """A lane's labels: today's list, and what its history holds."""

    section: LaneSection
    census: Census | None  # None: Redis does not answer, and the list and the rulings alone are known
    rulings: Sequence[Ruling]

    def rename(self, old: str, new: str) -> DraftRuling:
        """One label under another name; errors as of `merge`."""
        label, name, today = self._known(old), new.strip(), self.section.labels
        others = [one for one in today if one != label]
        if not name or name == label:
            message = f"{label!r} is its name already"
            raise RefusedError(message)
        if name in others and label in today:
            message = (
                f"{name!r} is a label of its own: `understudy labels merge {_quoted(label)} --into {_quoted(name)}`"
            )
            raise RefusedError(message)
        if name not in others:
            self._refuse_spelling(name, others)
        wanted = [name if one == label else one for one in today]
        if name not in wanted:
            wanted.append(name)
        return DraftRuling(
            kind="rename", labels=(label,), to=name, items=self._items([label]), settings=self._settings(wanted)
        )

    def merge(self, old: Iterable[str], into: str, *, unlisted: bool = False) -> DraftRuling:
        """Labels read as another one that is on the list.

        Args:
            old: the labels.
            into: as which they are read.
            unlisted: they may be such as were never on the list: what another producer calls it.

        Raises:
            RefusedError: it makes no sense; the message says why.
        """
        labels = tuple(dict.fromkeys(self._any(one) if unlisted else self._known(one) for one in old))
        if into not in self.section.labels:
            message = f"--into {into}: it is not on the list, which has {listing(self.section.labels)}"
            raise RefusedError(message)
        if into in labels:
            message = f"{into!r} cannot be read as itself"
            raise RefusedError(message)
        return DraftRuling(
            kind="merge",
            labels=labels,
            to=into,
            items=self._items(labels),
            settings=self._settings([one for one in self.section.labels if one not in labels]),
        )

    def retire(self, old: str) -> DraftRuling:
        """A label whose answers count no more; errors as of `merge`."""
        label = self._known(old)
        return DraftRuling(
            kind="retire",
            labels=(label,),
            items=self._items([label]),
            settings=self._settings([one for one in self.section.labels if one != label]),
            notes=("a cycle takes it out of the student's rows: `understudy cycle start`, once the trainer restarted",),
        )

    def add(self, new: str) -> Decided:
        """A label more; nothing is signed: answers that were paid before it stay valid. Errors as of `merge`."""
        name = new.strip()
        if not name or name in self.section.labels:
            message = f"{name!r} is on the list already" if name else "a label has a name"
            raise RefusedError(message)
        self._refuse_spelling(name, self.section.labels)
        notes = [
            f"ruling {ruling.number} ({told(ruling)}) sleeps from then on: what is on the list is read as itself"
            for ruling in in_force(self.rulings)
            if name in ruling.labels
        ]
        return Decided(
            lane=str(self.section.lane),
            ruling=None,
            kind="add",
            labels=[name],
            items=0 if self.census is None else self.census.of("fresh"),
            settings=list(self._settings([*self.section.labels, name])),
            notes=["answers that were paid before stay valid", *notes],
        )

    def _known(self, name: str) -> str:
        """The label that is meant: on the list, in the history, or in a ruling.

        Raises:
            RefusedError: there is none of that name.
        """
        history = () if self.census is None else tuple(self.census.labels)
        known = list(dict.fromkeys((*self.section.labels, *history, *rules_of(self.rulings).labels)))
        if name in known:
            return name
        try:
            return listed(name, known)
        except InvalidAnswerError as error:
            message = (
                f"no label {name!r}: there is {listing(known)}; `merge --unlisted` takes what was never on the list"
            )
            raise RefusedError(message) from error

    def _any(self, name: str) -> str:
        """The label that is meant; where nobody knows it, the name itself."""
        try:
            return self._known(name)
        except RefusedError:
            if (wrong := wrong_labels((name.strip(),))) is not None:
                message = f"{name!r}: {wrong}"
                raise RefusedError(message) from None
            return name.strip()

    def _refuse_spelling(self, name: str, others: Sequence[str]) -> None:
        """Refuse a name that answers would be taken for another label by."""
        try:
            like = listed(name, others) if others else None
        except InvalidAnswerError:
            return
        if like is not None:
            message = f"{name!r} is read as the label {like!r}: answers could not tell them apart"
            raise RefusedError(message)

    def _items(self, labels: Iterable[str]) -> int:
        return 0 if self.census is None else self.census.having(labels)

    def _settings(self, wanted: Sequence[str]) -> tuple[str, ...]:
        """What to change in the settings, a line each; nothing where the list is so already."""
        section = self.section
        if list(wanted) == list(section.labels):
            return ()
        if section.labels_file is None:
            line = f"labels = [{', '.join(map(_quoted, wanted))}]"
            return (f"in the settings, in the lane {section.lane}:", line, _RESTART)
        gone = [f"- {one}" for one in section.labels if one not in wanted]
        come = [f"+ {one}" for one in wanted if one not in section.labels]
        return (f"in {section.labels_file}, a label a line:", *gone, *come, _RESTART)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """A lane's prompt versions: the present one, and those that its items were answered under."""

    section: LaneSection
    present: str  # `model@prompt version`
    census: Census

    def accept(self, named: str) -> DraftRuling:
        """The answers of an older prompt version are still good.

        Raises:
            RefusedError: there is no such prompt version, more than one, or its answers count already.
        """
        prompt = self.older(named)
        found = self.census.prompts[prompt]
        notes = (
            f"{found.alone} items have no other answer and count again",
            "from the next cycle on, of a trainer that runs with the present settings",
            "where answers still come in under it, restart ingest: till then it names them as of another prompt",
        )
        return DraftRuling(kind="accept", prompt=prompt, under=self.present, items=found.items, notes=notes)

    def older(self, named: str) -> str:
        """The prompt version that is meant, by its hash or how that begins; errors as of `accept`."""
        prompts = self.census.prompts
        matching = [one for one in prompts if one == named or one.rpartition("@")[2].startswith(named)] if named else []
        if len(matching) != 1:
            which = "fits more than one of" if matching else "is none of"
            message = f"--from {named} {which} the prompt versions that are kept: {', '.join(prompts) or 'none'}"
            raise RefusedError(message)
        if matching[0] == self.present or prompts[matching[0]].counts:
            message = f"the answers of {matching[0]} count already"
            raise RefusedError(message)
        return matching[0]


def _quoted(label: str) -> str:
    """A label as TOML, and a shell, take it."""
    return json.dumps(label, ensure_ascii=False)
