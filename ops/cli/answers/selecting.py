"""The options that say which kept questions are meant."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Final

import typer

from ops.answers.kept import Selection
from ops.exits import RefusedError
from ops.sections import LaneSection
from ops.site import Site
from ops.tasks import TASKS
from store.answers.census import STATES, State
from store.redact import redact

_TIMES: Final = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selecting:
    """Each narrows the choice."""

    items: Annotated[
        list[str] | None, typer.Argument(metavar="[ITEM]...", help="Ids, or the beginning of one each.")
    ] = None
    state: Annotated[
        list[str] | None,
        typer.Option(metavar="STATE", help=f"Of this state alone; more than once for several: {', '.join(STATES)}."),
    ] = None
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="LABEL", help="Of this label as it is read today; more than once for several."),
    ] = None
    text: Annotated[str | None, typer.Option(help="Whose question holds this, in any case.", show_default=False)] = None
    since: Annotated[
        datetime | None,
        typer.Option(metavar="TIME", formats=_TIMES, help="First asked then or later, UTC.", show_default=False),
    ] = None
    until: Annotated[
        datetime | None,
        typer.Option(metavar="TIME", formats=_TIMES, help="First asked before then, UTC.", show_default=False),
    ] = None

    def selection(self, site: Site, section: LaneSection) -> Selection:
        """What they come to. A text is looked for as it is kept: redacted.

        Raises:
            BadParameter: there is no such state, or an id is none.
            RefusedError: the lane's answers are no labels.
            TooLaboriousError: the text is none that any question could hold.
        """
        if self.label and not TASKS[section.task].has_labels:
            message = f"--label: {section.lane} is a lane of {section.task}: it has no labels"
            raise RefusedError(message)
        states: dict[str, State] = {state: state for state in STATES}
        if unknown := [one for one in self.state or () if one not in states]:
            message = f"{unknown[0]}: there is {', '.join(STATES)}"
            raise typer.BadParameter(message, param_hint="--state")
        if any(not one for one in self.items or ()):
            message = "an empty id begins every question"
            raise typer.BadParameter(message, param_hint="ITEM")
        return Selection(
            ids=frozenset(self.items or ()),
            states=tuple(states[one] for one in self.state or ()),
            labels=tuple(self.label or ()),
            text=None if self.text is None else redact(self.text, site.secret.redaction_key(section.lane)),
            since_s=_seconds(self.since),
            until_s=_seconds(self.until),
        )


def _seconds(given: datetime | None) -> float | None:
    return None if given is None else given.replace(tzinfo=UTC).timestamp()
