"""How a lane's answers stand, in the shape that `status` and the commands on labels and prompts show."""

import msgspec
import redis

from ops.answers.standing import census_of
from ops.sections import LaneSection
from ops.site import Site
from store.answers.census import Census, PromptCount, advice
from store.errors import CorruptItemError, RegistryError, SettingsError


class AnswersShown(msgspec.Struct, frozen=True, kw_only=True):
    """How a lane's kept items stand: learned from or not, and why, by label and by prompt version."""

    at_s: float  # when they were counted, Unix seconds
    items: int
    fresh: int  # learned from
    quarantined: int  # too young, for a while
    stale: int  # paid under another prompt
    retired: int  # of a label that a ruling retired
    off_list: int  # of a label that is not on today's list, and that no ruling tells of
    dropped: int  # by a person, with `understudy answers drop`
    labels: dict[str, dict[str, int]]  # label -> state -> items
    prompts: dict[str, PromptCount]
    advice: list[str]  # what to do, a sentence each


def answers_of(site: Site, client: redis.Redis, section: LaneSection, unavailable: list[str]) -> AnswersShown | None:
    """How a lane's answers stand; None where that cannot be told, and `unavailable` says why.

    Raises:
        StoreUnavailableError: Redis does not answer.
    """
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
        dropped=census.of("dropped"),
        labels=census.labels,
        prompts=census.prompts,
        advice=advice(census),
    )
