"""How a lane's answers are read now: from its settings, its rulings, and the lists of labels it has had."""

from collections.abc import Sequence

import redis

from ops.sections import LaneSection
from ops.settings import read_prompt
from ops.site import Site
from store.answers.prompt import prompt_version
from store.answers.rules import Drawing, Rules
from store.answers.rulings import rules_of
from store.buffer.repair.lists import Lists, ListsHeld, lists_of


def present_prompt(section: LaneSection, labels: Sequence[str] | None = None) -> str:
    """The prompt version that the lane's teacher answers under now; with `labels` as earlier releases named it."""
    teacher = section.teacher
    return prompt_version(
        model=teacher.model,
        prompt=read_prompt(section),
        parameters=teacher.parameters,
        answer_format=teacher.parser,
        labels=labels,
    )


def tally_key(section: LaneSection, labels: Sequence[str] | None = None) -> str:
    """How items name the present prompt version in their tally; `labels` as of `present_prompt`."""
    return f"{section.teacher.model}@{present_prompt(section, labels)}"


def lane_rules(site: Site, section: LaneSection, held: Sequence[ListsHeld]) -> Rules:
    """How the lane's older answers are read now.

    Args:
        site: whose rulings.
        section: the lane.
        held: the lists of labels it has had: earlier releases had them in the prompt version's hash.

    Raises:
        RegistryError: the rulings do not verify.
    """
    lists = [section.labels, *lists_of(held, section.lane)]
    present = {tally_key(section), *(tally_key(section, labels) for labels in lists)}
    return rules_of(site.registry.rulings(section.lane).read(), present)


def lane_drawing(site: Site, client: redis.Redis, section: LaneSection, now_s: float) -> Drawing:
    """How a cycle of the lane would read its items now (Unix seconds); errors as of `lane_rules`, and Redis'."""
    return Drawing(
        prompt_version=tally_key(section),
        quarantine_s=site.settings.trainer.quarantine_s,
        now_s=now_s,
        allowed_labels=frozenset(section.labels),
        rules=lane_rules(site, section, Lists(client).held(section.use_case)),
    )
