"""What was signed, and what was paid: versions and moves that verify, and answers that are still learned from."""

from collections.abc import Iterator

from ops.answers.standing import census_of
from ops.checks.verify import check_registry
from ops.doctor.finding import Finding, Visit
from store.answers.census import advice
from store.errors import CorruptItemError, RegistryError, SettingsError, StoreUnavailableError


def versions(visit: Visit) -> Iterator[Finding]:
    """Every move, ruling and version of every lane, with its signature and the hash of every file."""
    for section in visit.site.settings.lanes:
        found, lane = check_registry(visit.site.registry, [section.lane]), str(section.lane)
        for problem in found.problems:
            yield Finding(
                check="versions", level="fault", why=problem, mend=f"understudy verify --lane {lane}", lane=lane
            )
        if not found.problems:
            why = f"{found.versions} versions, {found.moves} moves and {found.rulings} rulings verify"
            yield Finding(check="versions", level="ok", why=why, lane=lane)


def answers(visit: Visit) -> Iterator[Finding]:
    """Whether paid answers are learned from."""
    with visit.site.redis_client() as client:
        for section in visit.site.settings.lanes:
            lane = str(section.lane)
            try:
                census = census_of(visit.site, client, section)
            except StoreUnavailableError:
                raise
            except (RegistryError, SettingsError, CorruptItemError) as error:
                yield Finding(
                    check="answers",
                    level="not_checked",
                    why=str(error),
                    mend=f"understudy verify --lane {lane}",
                    lane=lane,
                )
                continue
            said = advice(census)
            for sentence in said:
                yield Finding(
                    check="answers",
                    level="warning",
                    why=sentence,
                    mend=f"understudy buffer stats --lane {lane}",
                    lane=lane,
                )
            if not said:
                why = f"{census.of('fresh'):,} of {census.items:,} kept items are learned from, and none is stale"
                yield Finding(check="answers", level="ok", why=why, lane=lane)
