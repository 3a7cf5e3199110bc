"""How answers stand, as `status` and the commands on labels and prompts print it."""

from collections.abc import Mapping

import msgspec
import redis
import typer

from ops.answers.standing import census_of
from ops.cli.output import emit_table, time_of
from ops.sections import LaneSection
from ops.site import Site
from store.answers.census import STATES, Census, PromptCount, State, advice
from store.errors import CorruptItemError, RegistryError, SettingsError

_COLUMNS: Mapping[State, str] = {
    "fresh": "fresh",
    "quarantined": "waiting",
    "stale": "stale",
    "retired": "retired",
    "off_list": "off list",
}


_UNUSED: frozenset[State] = frozenset({"stale", "retired", "off_list"})


class AnswersShown(msgspec.Struct, frozen=True, kw_only=True):
    """How a lane's kept items stand: learned from or not, and why, by label and by prompt version."""

    at_s: float  # when they were counted, Unix seconds
    items: int
    fresh: int  # learned from
    quarantined: int  # too young, for a while
    stale: int  # paid under another prompt
    retired: int  # of a label that a ruling retired
    off_list: int  # of a label that is not on today's list, and that no ruling tells of
    labels: dict[str, dict[str, int]]  # label -> state -> items
    prompts: dict[str, PromptCount]
    advice: list[str]  # what to do, a sentence each


def answers_of(site: Site, client: redis.Redis, section: LaneSection, unavailable: list[str]) -> AnswersShown | None:
    """How a lane's answers stand; None where that cannot be told, and `unavailable` says why.

    Raises:
        StoreUnavailableError: Redis does not answer.
    """
    if section.task != "classify":
        return None
    try:
        return shown(census_of(site, client, section))
    except (RegistryError, SettingsError, CorruptItemError, OSError) as error:
        unavailable.append(f"answers of {section.lane}: {error}")
        return None


def shown(census: Census) -> AnswersShown:
    """A census, for people and programs."""
    return AnswersShown(
        at_s=census.at_s,
        items=census.items,
        fresh=census.of("fresh"),
        quarantined=census.of("quarantined"),
        stale=census.of("stale"),
        retired=census.of("retired"),
        off_list=census.of("off_list"),
        labels=census.labels,
        prompts=census.prompts,
        advice=advice(census),
    )


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
