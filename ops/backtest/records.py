"""What a backtest is asked and what it answers, as plain records; `-o json` prints `Backtest` as it is."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from store.event import Task
from store.policy import Metric, PolicyName
from store.tasks.rank import Tolerance


class BacktestPrices(msgspec.Struct, frozen=True, kw_only=True):
    """What things cost, in dollars."""

    usd_per_call: float  # of the teacher
    usd_per_training_hour: float  # of the machine that trains, by its own processor time


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One run over the log."""

    budget: int  # teacher calls over the whole log, audits included
    seed: int  # of fits, audits and, where shuffled, of the order
    shuffled: bool = False  # seed 0 keeps the log's order all the same
    target: float | None = None  # a promise to keep; None: the budget alone decides
    confidence: float = 0.95
    metric: Metric = "accuracy"
    audit_ratio: float = 0.0
    audit_reserve_ratio: float = 0.1  # of the budget, kept for audits where there are any
    fine_tune: bool = True
    horizon_ratio: float = 1.0  # forecast of the log's length over its true length

    @property
    def kept_for_audits(self) -> float:
        """The share of the budget that escalations leave: none where nothing is audited."""
        return self.audit_reserve_ratio if self.audit_ratio > 0 else 0.0

    @property
    def policy(self) -> PolicyName:
        """How requests are routed."""
        return "budget" if self.target is None else "promise"


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """A twentieth of the log, in the order of the run."""

    first_row: int
    rows: int
    calls: int
    spared: int  # answered by the student, and the teacher was not asked
    agreement: float | None  # of all answers with the teacher's; None: no row has a teacher's answer
    accuracy: float | None  # of all answers, against the true labels; None: there are none
    suspended: int  # questions that a promise would have sent to the teacher, but for the budget


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one run. Ratios are of rows that have what is compared with."""

    ask: Ask
    rows: int
    calls: int  # to the teacher, audits and unusable answers included
    unspent: int
    audits: int
    unusable: int  # calls that brought no usable answer
    spared: int  # answered by the student, and the teacher was not asked
    unanswered: int  # answered by nobody: no student may, and the budget is spent or the teacher said nothing usable
    suspended_rows: int  # answered by the student, or by nobody, only because the budget bound
    suspended_s: float  # of the log's time
    score: float | None  # the ask's metric over all answers, against the true labels
    agreement: float | None  # system agreement
    student_accuracy: float | None  # over what the student answered, against the true labels
    paid_accuracy: float | None  # over what the teacher answered, against the true labels
    student_rows: int
    answered_agreement: float | None  # over what the student answered by its own decision
    answered_rows: int
    random_score: float | None  # the same student, the same calls on questions drawn at random: against true labels
    oracle_score: float | None  # the same student, the same calls where it is wrong and the teacher right
    random_agreement: float | None  # both once more against the teacher's answers
    oracle_agreement: float | None
    first_version_row: int | None  # before which everything went to the teacher
    certified_row: int | None  # from which on a threshold let the student answer
    head_cycles: int
    fine_tune_cycles: int
    refused_cycles: int
    encoder_parameters: int
    served_parameters: int
    training_cpu_s: float
    seconds: float  # of the run, on the wall
    slices: list[Slice]
    others: dict[str, float] = {}  # by name: agreement of other ways to answer the same questions
    measures: dict[str, float] = {}  # by name: what else is told of all answers, and never promised


class Answers(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Row by row, in the order of the run: what `--answers` writes."""

    rows: NDArray[np.int64]  # [n] places in the log
    answer: list[str]
    by_teacher: NDArray[np.bool_]
    reason: list[str]
    propensity: NDArray[np.float64]
    confidence: NDArray[np.float64]  # NaN where there was no student
    version: list[str]  # "" where there was none
    student: list[str]  # the student's own answer, before any label was seen; "" where there was none


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One budget, all its runs."""

    budget: int
    calls: float  # mean
    calls_ratio: float  # of rows
    usd: float  # teacher and training, over the log
    usd_per_day: float
    training_usd: float  # of `usd`
    spared: float  # mean, rows that the student answered and the teacher was not asked
    unanswered_ratio: float  # of rows
    score: Interval | None
    agreement: Interval | None
    answered_agreement: Interval | None
    random_score: float | None
    oracle_score: float | None
    random_agreement: float | None
    oracle_agreement: float | None
    versus_teacher: Interval | None  # the score (or agreement) less the teacher's own, paired on the same rows
    suspended_ratio: float  # of rows
    suspended_s: float  # mean, of the log's time
    runs: int
    others: dict[str, float] = {}  # means; see `Run`
    measures: dict[str, float] = {}


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """From one budget to the next: what one more call, or one more dollar a day, buys there."""

    from_budget: int
    to_budget: int
    usd_per_day: float  # more
    gain: Interval  # of the score (or, without true labels, of agreement), to the higher budget: paired by seed
    gain_per_usd_day: Interval | None  # None: calls cost nothing
    gain_per_100_calls: Interval


class HardTopic(msgspec.Struct, frozen=True, kw_only=True):
    """A topic of the log, with how much of it still went to the teacher in the last half."""

    name: str
    rows: int
    escalated_ratio: float
    agreement: float | None  # of the student's own answers
    conflicts: int = 0  # questions that the teacher answered otherwise when asked nearly alike


class Recommendation(msgspec.Struct, frozen=True, kw_only=True):
    """The setting to start with, and why."""

    budget: int
    calls_per_day: int
    target: float | None
    why: str
    saved_usd_per_day: float  # against the teacher alone
    break_even_days: float | None  # until training has paid for itself; None: it does not within a year


class Backtest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a backtest found."""

    log: str
    rows: int
    skipped: int
    bad: list[dict[str, str | int]]  # the first 20 rows that were skipped: line and why
    unusable: int  # rows without a usable teacher answer
    labels: int
    days: float
    timed: bool  # the times are the log's own
    per_day: bool = True  # false: nobody knows how long the log is; what is told for a day is for the whole log
    spellings: int = 0  # that the labels have among the teacher's answers
    off_list: int = 0  # answers that are none of the lane's labels: unusable
    untimed_why: str | None = None  # why the log's own times are not used, though some row has one
    has_gold: bool
    teacher_score: float | None  # the teacher alone, against the true labels
    teacher_usd_per_day: float
    metric: Metric
    target: float | None
    prices: BacktestPrices
    points: list[Point]
    steps: list[Step]
    hard_topics: list[HardTopic]
    recommendation: Recommendation | None
    runs: list[Run]
    task: Task = "classify"
    tolerance: Tolerance | None = None  # of a ranking
    agreement: str | None = None  # what is called the same answer, where it is more than the same words
    proposal: str = ""  # of a tolerance, by what the teacher's scores are like
    complete: bool  # false: it was stopped before every run had ended
