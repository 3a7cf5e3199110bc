"""How answers stand, as `status` and the commands on labels and prompts print it."""

from collections.abc import Mapping

import typer

from ops.cli.output import emit_table
from ops.show.values import time_of
from ops.status.answers import AnswersShown
from store.answers.census import STATES, State

_COLUMNS: Mapping[State, str] = {
    "fresh": "fresh",
    "quarantined": "waiting",
    "stale": "stale",
    "retired": "retired",
    "off_list": "off list",
    "dropped": "dropped",
}


_UNUSED: frozenset[State] = frozenset({"stale", "retired", "off_list"})


def answers_line(found: AnswersShown | None) -> str | None:
    """How a lane's answers stand, in a line of `status`."""
    if found is None:
        return None
    counts = {state: getattr(found, state) for state in STATES}
    parts = [f"{n} {_COLUMNS[state]}" for state, n in counts.items() if n or state == "fresh"]
    return f"{', '.join(parts)} of {found.items} items ({time_of(found.at_s)})"


def show_answers(found: AnswersShown | None) -> None:
    """The labels of a lane one by one, where some of its items count no more, and what to do about it."""
    if found is None or not found.advice:
        return
    wrong = {label: states for label, states in found.labels.items() if states.keys() & _UNUSED}
    emit_table(label_columns(), label_rows(wrong))
    for sentence in found.advice:
        typer.echo(f"warning: {sentence}", err=True)


def label_rows(labels: Mapping[str, Mapping[str, int]]) -> list[tuple[object, ...]]:
    """A row a label: its items by state."""
    return [(label, *(states.get(state, 0) for state in STATES)) for label, states in labels.items()]


def label_columns() -> list[str]:
    """What `label_rows` holds."""
    return ["label", *(_COLUMNS[state] for state in STATES)]
