"""How a backtest reads the log of each task. Apart from what replays it: who reads needs no torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from ops.backtest.log import Log
from ops.backtest.options import Options
from ops.backtest.tasks.lists import read_rankings
from ops.backtest.tasks.talks import read_conversations
from ops.backtest.tasks.texts import ColumnNames, read_log
from ops.sections import LaneSection
from store.answers.rules import Rules
from store.errors import SettingsError
from store.event import Task
from store.tasks.chat import ChatTerms


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A task's log, and the options that belong to it alone."""

    log: Callable[[Options, LaneSection | None, Rules], Log]
    own: frozenset[str]  # flags
    curve: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.45, 0.65, 0.85)  # budgets, where none is given: of the rows
    seeds: int = 3  # runs of each, where nobody says


def _texts(options: Options, lane: LaneSection | None, rules: Rules) -> Log:
    columns = ColumnNames(text=options.text, label=options.label, gold=options.gold, id=options.id, time=options.time)
    return read_log(options.log, columns, options.days, lane.labels if lane is not None else (), rules)


def _rankings(options: Options, lane: LaneSection | None, rules: Rules) -> Log:
    del rules
    own = lane.rank if lane is not None else None
    k = options.k if options.k is not None else own.k if own is not None else 1
    epsilon = options.epsilon if options.epsilon is not None else own.epsilon if own is not None else None
    return read_rankings(options.log, options.named, options.days, k=k, epsilon=epsilon)


def _conversations(options: Options, lane: LaneSection | None, rules: Rules) -> Log:
    del rules
    terms = lane.terms().chat if lane is not None else ChatTerms()
    return read_conversations(options.log, options.named, options.days, terms)


LOGS: Final[Mapping[Task, Read]] = {
    "classify": Read(log=_texts, own=frozenset({"--text", "--label", "--gold", "--metric"})),
    "rank": Read(
        log=_rankings,
        own=frozenset({"--query", "--documents", "--scores", "--order", "--query-id", "--k", "--epsilon"}),
    ),
    "chat": Read(
        log=_conversations,
        own=frozenset({"--messages", "--answer", "--model"}),
        curve=(0.2, 0.45, 0.85),
        seeds=1,  # a cycle takes minutes
    ),
}


def read(task: Task, options: Options, lane: LaneSection | None, rules: Rules) -> Log:
    """The log of a task.

    Raises:
        SettingsError: it cannot be read, or an option is of another task; the message names the flag.
    """
    if task not in LOGS:
        message = f"--task {task}: there is {', '.join(LOGS)}"
        raise SettingsError(message)
    for flag, value in options.given.items():
        others = [name for name, one in LOGS.items() if flag in one.own]
        if value is not None and others and task not in others:
            message = f"{flag}: a log of the task {task} has no such thing"
            raise SettingsError(message)
    return LOGS[task].log(options, lane, rules)
