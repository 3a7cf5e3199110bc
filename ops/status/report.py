"""What `understudy status` answers; `-o json` prints it as it is."""

import msgspec

from ops.status.answers import AnswersShown
from store.control import CycleEnded
from store.cycles.signs import TrainerSign
from store.money.reckon import LaneMoney
from store.policy import Decide, PolicyName
from store.registry.moves import Move


class MoveShown(msgspec.Struct, frozen=True, kw_only=True):
    """The latest move."""

    number: int
    kind: str
    version: str | None
    who: str
    why: str
    time_s: float

    @staticmethod
    def of(move: Move) -> "MoveShown":
        """A move of the chain."""
        return MoveShown(
            number=move.number, kind=move.kind, version=move.version, who=move.who, why=move.why, time_s=move.time_s
        )


class PromiseShown(msgspec.Struct, frozen=True, kw_only=True):
    """The promise and its meter, from the audits of the champion."""

    target: float | None  # None: the lane only has a budget and promises nothing
    state: str | None  # held, suspended, unproven, broken or, without a target, none; None: Redis does not answer
    estimate: float | None
    low: float | None
    high: float | None
    audits: int | None
    audits_short: int | None
    agreement: str = "the same label"  # when an answer counts as the teacher's


class BudgetShown(msgspec.Struct, frozen=True, kw_only=True):
    """Teacher calls of the last 24 hours."""

    used: int | None
    limit: int


class BufferShown(msgspec.Struct, frozen=True, kw_only=True):
    """Where the lane's records went, and how far ingest is behind."""

    counted: int
    repeats: int
    ineligible: int
    evicted: int
    items_ever: int
    lag_records: int | None  # of the use case's topic


class LaneStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One lane."""

    lane: str
    policy: PolicyName
    served: dict[str, str | None]  # replica -> version; empty while no gateway is alive
    champion: str | None
    previous: str | None
    anchor: str | None
    pinned: bool
    paused: bool
    candidates: list[str]
    moves_ok: bool  # false: the chain does not verify, and what it says is left out
    last_move: MoveShown | None
    promise: PromiseShown
    budget: BudgetShown
    escalated_ratio: float | None  # of the last minutes' requests
    buffer: BufferShown | None
    training_permitted: bool
    unread_ratio: float | None = None  # of the teacher's answers since the gateways started: no label could be read
    last_cycle: CycleEnded | None = None  # what became of it; verdict "error": it came to none
    answers: AnswersShown | None = None  # how the kept items are read today; None: it cannot be told
    trainer: TrainerSign | None = None  # what it says of itself, and of the cycle in hand; None: nobody was heard
    money: LaneMoney | None = None  # None: Redis does not answer
    decides: Decide = "end"  # when it is decided who answers, as the settings have it
    coverage: dict[Decide, float] = {}  # of the champion: share of traffic that it may answer, by when that is decided


class ProcessStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One process on this machine."""

    name: str
    pid: int | None  # None: it does not run here
    port: int | None
    admin_port: int | None
    started_s: float | None
    ready: bool | None
    why: list[str] = []  # what it says of itself besides "ok": what it waits for, what is degraded


class StatusReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything."""

    lanes: list[LaneStatus]
    processes: list[ProcessStatus]
    dead_letters: dict[str, dict[str, int]]  # use case -> reason -> records that nobody has replayed or dropped
    unavailable: list[str]  # what could not be read, and why
    warnings: list[str] = []  # what works now and loses something one day
    answering: bool = True  # whether any process of ours answered, or was heard over Redis
    money: LaneMoney | None = None  # of all lanes
