"""Verdicts of a cycle: who says that two texts of different words say the same, and that nobody is asked twice.

What was once said of a question and two answers by one judge is kept beside the lane's features, and what a version
was judged by is a file of it: whoever judges the version again reads that, and asks nobody.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from store.errors import CorruptVersionError
from store.event import AgreementVerdict, TaskInput
from store.registry.files.durable import append_line
from store.registry.manifest import canonical_json
from store.tasks.rules import Dispute

VERDICTS_KEPT: Final = "verdicts.jsonl"  # among what can be made again, for its price


@dataclass(frozen=True, slots=True, kw_only=True)
class Disputed:
    """Two answers to a question, of which no rule tells whether they say the same."""

    question: TaskInput
    parts: Sequence[Any]  # the question in canonical form
    dispute: Dispute
    distance: float  # of the two texts


class Referee(Protocol):
    """Judges pairs of answers."""

    @property
    def version(self) -> str:
        """Of the judge: its model, and all that it is told."""

    @property
    def distance_limit(self) -> float:
        """Two texts that are farther apart differ, and nobody is asked."""

    @property
    def pairs_left(self) -> int:
        """How many more this cycle may ask about."""

    @property
    def calls(self) -> int:
        """How often it was asked, in either order of two answers."""

    @property
    def spent_usd(self) -> float:
        """What that cost, in dollars; at most, where an endpoint does not say."""

    def judge(self, pairs: Sequence[Disputed], said: Callable[[int, AgreementVerdict], None]) -> None:
        """Ask about pairs, in their order, as far as the budget goes; each verdict is told as it comes.

        Args:
            pairs: of one judge.
            said: the pair's place, and what was said of it; of a pair that nobody judged nothing is.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class RefereeEntry:
    """Where a cycle finds its referee. It pickles, and nothing of the referee is imported before it is needed."""

    entry: str  # "module:function", called with `about`; returns a `Referee`
    about: Any

    def open(self) -> Referee:
        """The referee; nobody is asked yet."""
        module, _, name = self.entry.partition(":")
        made: Referee = getattr(import_module(module), name)(self.about)
        return made


class _Line(msgspec.Struct, frozen=True, kw_only=True):
    key: str
    verdict: AgreementVerdict


@dataclass(kw_only=True, eq=False)
class Verdicts:
    """What is known of one lane's pairs. Without a referee, and where one has no answer, they count as different."""

    entry: RefereeEntry | None = None
    folder: Path | None = None  # where verdicts are kept; None: nowhere
    used: dict[str, AgreementVerdict] = field(default_factory=dict)  # by pair, what this cycle read
    _known: dict[str, AgreementVerdict] = field(default_factory=dict)
    _unjudged: set[str] = field(default_factory=set)
    _referee: Referee | None = None

    def __post_init__(self) -> None:
        """Read what was kept; a line that is broken was never of use."""
        path = self._path
        if path is None or not path.exists():
            return
        for line in path.read_bytes().splitlines():
            try:
                found = msgspec.json.decode(line, type=_Line)
            except msgspec.MsgspecError:
                continue
            self._known[found.key] = found.verdict

    @property
    def unjudged(self) -> int:
        """How many pairs nobody has judged: they count as different."""
        return len(self._unjudged - self.used.keys())

    @property
    def calls(self) -> int:
        """How often the referee was asked in this cycle."""
        return 0 if self._referee is None else self._referee.calls

    @property
    def spent_usd(self) -> float:
        """What it cost, in dollars."""
        return 0.0 if self._referee is None else self._referee.spent_usd

    @property
    def content(self) -> bytes:
        """What this cycle read, as a version's file holds it."""
        return canonical_json(self.used)

    def read(self, content: bytes) -> None:
        """Take what a version was judged by, so that nobody is asked again.

        Raises:
            CorruptVersionError: it is no such file.
        """
        try:
            found = msgspec.json.decode(content, type=dict[str, AgreementVerdict])
        except msgspec.MsgspecError as error:
            message = f"verdicts.json holds no verdicts: {error}"
            raise CorruptVersionError(message) from error
        self._known |= {key: one for key, one in found.items() if one.by == "judge"}

    def of(self, pairs: Sequence[Disputed], *, half: bool = False) -> list[bool | None]:
        """Whether the answers of each pair say the same; None: there is a referee, and it did not get to this one.

        Args:
            pairs: the answers.
            half: ask about half of what may still be asked, at most: the other half is for who judges the version.
        """
        if pairs and self._referee is None and self.entry is not None:
            self._referee = self.entry.open()
        keys = [self._key(one) for one in pairs]
        new: dict[str, Disputed] = {}
        for key, one in zip(keys, pairs, strict=True):
            if self._referee is not None and one.distance > self._referee.distance_limit:
                self.used[key] = AgreementVerdict(agreed=False, by="distance")
            elif key in self._known:
                self.used[key] = self._known[key]
            elif key not in self._unjudged:  # who could not be judged once in a cycle is not asked about again
                new[key] = one
        self._unjudged |= new.keys()
        if self._referee is not None and new:
            places = list(new)[: self._referee.pairs_left // 2 if half else None]
            chosen = [new[key] for key in places]
            self._referee.judge(chosen, lambda place, verdict: self._keep(places[place], verdict))
        missing = False if self._referee is None else None
        return [found.agreed if (found := self.used.get(key)) is not None else missing for key in keys]

    def _keep(self, key: str, verdict: AgreementVerdict) -> None:
        self._known[key] = self.used[key] = verdict
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            append_line(self._path, msgspec.json.encode(_Line(key=key, verdict=verdict)))

    @property
    def _path(self) -> Path | None:
        return None if self.folder is None else self.folder / VERDICTS_KEPT

    def _key(self, one: Disputed) -> str:
        version = "" if self._referee is None else self._referee.version
        return hashlib.sha256(canonical_json([version, one.parts, *one.dispute])).hexdigest()
