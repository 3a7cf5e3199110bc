"""What the daemon hands to the cycle's process and what comes back; neither side of it needs torch to read this."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

from store.answers.rules import NO_RULES, Drawing, Rules
from store.control import CycleKind
from store.cycles.signs import Stage
from store.event import Lane, Task
from store.money.reckon import Prices
from store.policy import Metric, PolicyName
from store.registry.manifest import Verdict
from store.tasks.rules import TaskRules
from store.tasks.tasks import TASKS, LaneTerms
from trainer.judge.gate import GateLimits
from trainer.judge.referee import RefereeEntry
from trainer.snapshot import SplitSettings

Tell = Callable[[Stage, float | None], None]
"""Told of the stage that a cycle is at, and of how much of it is done, where that is known."""


def tell_nobody(stage: Stage, done_ratio: float | None) -> None:
    """For who runs a cycle that nobody watches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentSettings:
    """What a lane says of its own student; None: as the trainer's settings have it."""

    encoder: str | None = None
    model: str | None = None
    device: str | None = None
    precision: Literal["auto", "fp32", "bf16"] | None = None
    threads: int | None = None
    max_tokens: int | None = None
    ranks: int | None = None
    strategy: Literal["ddp", "fsdp"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneTraining:
    """What the trainer knows of a lane."""

    lane: Lane
    task: Task
    prompt_version: str  # key of the current answers in an item's tally: "model@hash"
    target: float  # answered agreement promised
    confidence: float  # with which it is promised
    terms: LaneTerms = field(default_factory=LaneTerms)  # what its settings say about answers
    policy: PolicyName = "promise"  # "budget": nothing is promised, and nothing held out
    metric: Metric = "accuracy"  # what a budget is spent to raise; a promise knows accuracy alone
    readings: Rules = NO_RULES  # how answers are read that were given under another prompt or another list
    prices: Prices = field(default_factory=Prices)  # for what the lane has saved
    referee: RefereeEntry | None = None  # of answers that no rule compares; None: such do not agree
    student: StudentSettings = field(default_factory=StudentSettings)  # where it says other than the trainer's settings

    @property
    def labels(self) -> tuple[str, ...]:
        """That the teacher may give: no other is learned; none: any."""
        return self.terms.labels

    @property
    def rules(self) -> TaskRules:
        """What the lane means by a question, an answer and agreement."""
        return TASKS[self.task](self.terms)


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleSettings:
    """How a cycle freezes, fits and judges."""

    encoder: str  # directory of the base encoder, or "minilm" for the wheel's
    device: str
    precision: Literal["auto", "fp32", "bf16"]
    threads: int  # of torch in the cycle's process
    max_tokens: int
    seed: int
    min_items_per_label: int
    quarantine_s: float  # an item is not drawn before it is this old
    novelty_quantile: float  # share of known questions that is not novel
    split: SplitSettings
    limits: GateLimits
    model: str | None = None  # directory of the decoder, or "smollm2" for the wheel's; of a task that has one
    ranks: int = 1  # processes that train, a device each; of a task whose students are worth it
    strategy: Literal["ddp", "fsdp"] = "ddp"  # how these share a model


def settings_of(training: LaneTraining, settings: CycleSettings) -> CycleSettings:
    """The trainer's settings with what the lane says for itself."""
    own = {one.name: getattr(training.student, one.name) for one in fields(StudentSettings)}
    return replace(settings, **{name: value for name, value in own.items() if value is not None})


def held_out(training: LaneTraining, settings: CycleSettings) -> SplitSettings:
    """Who is held out: where nothing is promised, nobody."""
    split = settings.split
    return split if training.policy == "promise" else replace(split, calibrate_ratio=0.0, judge_ratio=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the cycle's process finds things."""

    redis_url: str
    items_per_stratum: int
    registry_root: Path
    trusted_keys: Path
    signing_key: Path
    cache: Path
    cycle_log: Path
    code_version: str


def drawing_of(training: LaneTraining, settings: CycleSettings, now_s: float) -> Drawing:
    """What a cycle of the lane draws now (Unix seconds)."""
    return Drawing(
        prompt_version=training.prompt_version,
        quarantine_s=settings.quarantine_s,
        now_s=now_s,
        allowed_labels=frozenset(training.labels),
        rules=training.readings,
        labelled=training.rules.most_said is None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleWork:
    """One cycle to run, with where everything lies."""

    cycle_id: str
    training: LaneTraining
    kind: CycleKind
    candidate: str | None
    champion: str | None
    anchor: str | None
    now_s: float
    settings: CycleSettings
    redis_url: str
    items_per_stratum: int
    registry_root: Path
    trusted_keys: Path
    signing_key: Path
    cache: Path  # of features
    code_version: str
    request: str = ""  # id of the request that it answers


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleResult:
    """What a cycle came to."""

    version: str | None  # the signed version; None when there was too little to make one
    verdict: Verdict
    anchor: bool  # this version's lower bound is the best so far
    label_items: Mapping[str, int] = field(default_factory=dict)  # training items of each label that it knows
    drawn: bytes | None = None  # the rows that it drew, as `trainer.news` writes them down
    nothing_new: bool = False  # there was nothing to learn from that the champion had not learned
    asked: int = 0  # calls of the referee, each for one order of two answers
    asked_usd: float = 0.0  # what they cost, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleReport:
    """One line of the cycle log, `run/cycles.jsonl`."""

    id: str
    at_s: float
    seconds: float
    lane: str
    kind: CycleKind
    candidate: str | None
    verdict: Literal["pass", "fail", "inconclusive", "held", "error"]  # error: it came to none
    refusals: list[str]  # of an error: what it was; of any other, with what else is to know
    rows_judged: int
    difference: float | None
    lower: float | None
    delta: float
    rows_needed: int
    version: str | None
    next_try_s: float | None = None  # after an error, Unix seconds
    request: str = ""  # id of the request that it answers
    nothing_new: bool = False  # there was nothing to learn from that the champion had not learned


def kept_folder(cache: Path, lane: Lane) -> Path:
    """The lane's own folder of what can be made again."""
    return cache / lane.tenant / lane.use_case


def draft_folder(cache: Path, lane: Lane) -> Path:
    """Where a cycle writes the files of a version before it is published; nothing in it outlives the cycle."""
    return kept_folder(cache, lane) / "draft"
