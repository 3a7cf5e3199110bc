"""How answers stand, as `status` and the commands on labels and prompts print it."""

import typer

from ops.cli.output import emit_table
from ops.status.answers import AnswersShown
from ops.status.shown import label_columns, label_rows
from store.answers.census import State

_UNUSED: frozenset[State] = frozenset({"stale", "retired", "off_list"})


def show_answers(found: AnswersShown | None) -> None:
    """The labels of a lane one by one, where some of its items count no more, and what to do about it."""
    if found is None or not found.advice:
        return
    wrong = {label: states for label, states in found.labels.items() if states.keys() & _UNUSED}
    emit_table(label_columns(), label_rows(wrong))
    for sentence in found.advice:
        typer.echo(f"warning: {sentence}", err=True)
