"""`understudy verify --recompute`: do a version's signed policy and verdict come out of its frozen held-out rows?

Nothing is written and nobody is asked: where a referee judged answers, its logged verdicts are read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ops.answers.reading import Reading
from ops.exits import RefusedError
from ops.recompute.scoring import NotRecomputableError, recompute
from ops.reports import RecomputeReport
from ops.sections import LaneSection
from ops.site import Site
from ops.wiring.lanes import lane_settings
from ops.wiring.train import cycle_settings, lane_training
from serve.teacher.ask.judge import AskForVerdict
from store.buffer.repair.lists import Lists
from store.event import AgreementVerdict, wall_clock_s
from store.registry.moves import fold
from trainer.judge.referee import Disputed, RefereeEntry
from trainer.work import CycleWork, settings_of


@dataclass(slots=True, kw_only=True)
class LoggedReferee:
    """Satisfies `trainer.judge.referee.Referee`: it knows which verdicts were the lane's judge's, and gives none."""

    version: str
    distance_limit: float
    pairs_left: int = 0
    calls: int = 0
    spent_usd: float = 0.0

    def judge(self, pairs: Sequence[Disputed], said: Callable[[int, AgreementVerdict], None]) -> None:
        """Nobody is asked."""


def open_logged(section: LaneSection) -> LoggedReferee:
    """Of a lane; errors as of `lane_settings`."""
    lane = lane_settings(section)
    version = f"{lane.teacher.model}@{AskForVerdict(lane.teacher).prompt_version}"
    return LoggedReferee(version=version, distance_limit=lane.terms.chat.distance_limit)


_LOGGED = f"{__name__}:{open_logged.__name__}"


def recompute_site(site: Site, section: LaneSection, version: str | None) -> RecomputeReport:
    """Recompute one version of a lane.

    Args:
        site: the installation.
        section: the lane.
        version: its id; None: the champion.

    Raises:
        RefusedError: there is no champion, or what the numbers followed from is gone.
        StoreUnavailableError: Redis does not answer.
        RegistryError: a version or a move is not to be trusted.
        SettingsError: the encoder, the model or the prompt cannot be read.
    """
    chosen = version or fold(site.registry.moves(section.lane).read()).champion
    if chosen is None:
        message = f"{section.lane} has no champion: name a version, or wait for the first one"
        raise RefusedError(message)
    with site.redis_client() as client:
        reading = Reading.of(section)
        rules = reading.rules(site, Lists(client).held(section.use_case))
        items = list(site.buffer(client).items(section.lane))
    training = replace(
        lane_training(site.settings, section, reading),
        readings=rules,
        referee=RefereeEntry(entry=_LOGGED, about=section) if section.chat.referee == "teacher" else None,
    )
    work = CycleWork(
        cycle_id="recompute",
        training=training,
        kind="head",
        candidate=None,
        champion=None,
        anchor=None,
        now_s=wall_clock_s(),
        settings=settings_of(training, cycle_settings(site.settings)),
        redis_url="",
        items_per_stratum=site.settings.buffer.items_per_stratum,
        registry_root=site.registry_root,
        trusted_keys=site.settings.keys.trusted,
        signing_key=site.settings.keys.trainer,
        cache=site.settings.state_dir / "cache",
        code_version="",
    )
    try:
        found = recompute(work, chosen, items, site.registry)
    except NotRecomputableError as error:
        raise RefusedError(str(error)) from error
    return RecomputeReport(
        ok=not found.differing,
        lane=str(section.lane),
        version=chosen,
        rows=found.rows,
        tolerance=found.tolerance,
        differing=list(found.differing),
    )
