"""What a task must know to be learned: the protocols that each task's own recipe fills."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, Self

import numpy as np
import numpy.typing as npt

from store.control import CycleKind
from store.policy import Moment, Policy
from store.registry.manifest import BaseModel, Preprocessing
from store.registry.sealed import OpenVersion
from store.registry.students.records import StudentRecord
from store.student.encoder import Encoder, FloatArray
from store.student.loaded import Loaded
from trainer.judge.gate import Judged
from trainer.judge.referee import Verdicts
from trainer.judge.scored import Scored
from trainer.learn.features import BaseEncoder
from trainer.snapshot import Freezing, Row, Snapshot
from trainer.work import CycleSettings, LaneTraining, Tell


class Student(Loaded, Protocol):
    """A loaded version, as far as a trainer makes another of it."""

    def with_policy(self, policy: Policy | None) -> Self:
        """The same student under another policy."""

    def told(self, record: StudentRecord) -> StudentRecord:
        """A record with the golden outputs of this very student."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """A version in memory, with the ids it was trained on."""

    student: Student
    trained: frozenset[str]

    @property
    def certified(self) -> bool:
        """Whether its policy has a threshold."""
        return self.student.policy is not None and self.student.policy.threshold is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """The versions before this cycle's, as far as a verdict and a fit need them."""

    champion: Rival | None
    anchor: Rival | None  # where it is another version than the champion
    history: Sequence[Judged]  # of the promoted versions, oldest first
    records: Mapping[str, StudentRecord]  # of versions whose opinions are on record, by id


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestParts:
    """What a draft knows of its manifest; the cycle adds snapshot, verdict, policy and the rest."""

    kind: Literal["head", "fine_tune"]
    base: BaseModel
    served_parameters: int
    preprocessing: Preprocessing
    student: StudentRecord


class Draft(Protocol):
    """A fitted student that is not yet a version."""

    @property
    def record(self) -> StudentRecord:
        """What its manifest will say of it, the golden outputs left out: they depend on the policy."""

    @property
    def learned(self) -> Mapping[str, int]:
        """Training items of each label, or of the one kind that there is."""

    def student(self, policy: Policy | None = None) -> Student:
        """The student in memory, as a gateway will load it."""

    def write(self, directory: Path, policy: Policy | None = None) -> ManifestParts:
        """Write the version's files and return what its manifest says of them.

        Args:
            directory: where to; made if absent.
            policy: the calibrated one; the golden outputs are those of the student that serves with it.
        """


class Features(Protocol):
    """Where the base encoder's numbers of texts come from: computed once, whoever asks."""

    def features(self, encoder: Encoder, item_ids: Sequence[str], texts: Sequence[str]) -> FloatArray:
        """[n, features], in the order of the ids."""


class Frozen(Protocol):
    """The snapshot with whatever a student's answers to its rows are computed from."""

    @property
    def snapshot(self) -> Snapshot:
        """The rows."""

    @property
    def verdicts(self) -> Verdicts | None:
        """What a referee said of answers to the rows; None: rules tell all."""

    def topics_from(self) -> tuple[FloatArray, list[str]]:
        """A vector of length 1 and words for each row."""

    def conflicts(self) -> list[tuple[int, int]]:
        """Places of rows that ask the same by their vectors, and are answered otherwise."""

    def start(self, student: Student, places: Sequence[int], weights: npt.NDArray[np.float64]) -> Policy:
        """The student's temperature and novelty limit, from rows that it was not trained on; nothing is certified."""

    def scored(self, student: Student, places: Sequence[int], weights: npt.NDArray[np.float64]) -> Scored:
        """What judges read of a student under its own policy; no row is computed twice for one student."""

    def early(
        self, student: Student, places: Sequence[int], weights: npt.NDArray[np.float64]
    ) -> Mapping[Moment, Scored]:
        """The same answers, as sure as the student was at each moment before; none where it says all at once."""


CrossFitted = Callable[[Sequence[int], npt.NDArray[np.float64]], Scored]
"""What judges read of a fit that saw none of the rows at these places; with the rows' weights."""


class Recipe(Protocol):
    """How a student of one task is learned."""

    def freezing(self, training: LaneTraining, settings: CycleSettings, champion: Student | None) -> Freezing:
        """How items become rows."""

    def base(self, settings: CycleSettings) -> BaseEncoder:
        """What its students stand on.

        Raises:
            SettingsError: it is not there, or nothing that they can stand on.
        """

    def cache(self, folder: Path, tell: Tell) -> Features:
        """The lane's numbers on disk."""

    def freeze(
        self,
        snapshot: Snapshot,
        base: BaseEncoder,
        features: Features,
        *,
        training: LaneTraining,
        settings: CycleSettings,
    ) -> Frozen:
        """The rows, with what answers are computed from."""

    def load(self, opened: OpenVersion, settings: CycleSettings) -> Student:
        """A version in memory; raises as a `store.student.tasks.Loader` does."""

    def fit(self, kind: CycleKind, frozen: Frozen, lineage: Lineage, *, settings: CycleSettings, tell: Tell) -> Draft:
        """Fit a challenger.

        Raises:
            NotEnoughLabelsError: there is nothing to learn from yet.
        """

    def cross_fitted(self, frozen: Frozen, draft: Draft, champion: Rival) -> CrossFitted:
        """The challenger's recipe on rows it did not see: for a lane that holds nothing out."""


def weights_of(
    rows: Sequence[Row], places: Sequence[int], kind: Literal["questions", "requests", "each"]
) -> npt.NDArray[np.float64]:
    """[places] how many questions, or requests, each row stands for; or each for itself."""
    if kind == "each":
        return np.ones(len(places))
    return np.array([rows[place].mass if kind == "questions" else rows[place].requests for place in places], np.float64)
