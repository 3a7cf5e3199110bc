"""The commands that mend, on an installation."""

from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from functools import partial

import redis

from ops.open_log import open_appender, open_history
from ops.repair.letters import Letters
from ops.repair.rebuild import Rebuild, Replayed
from ops.repair.skip import apply, plan, survey
from ops.reports import Rebuilt, Skipped
from ops.site import Site
from ops.wiring.ingest import former_keys, lane_keys
from store.buffer.repair.lists import Lists
from store.buffer.repair.positions import Positions
from store.event import Lane, wall_clock_s
from stream.dead_letter import Burials
from stream.ingest import IngestSettings
from stream.log import History

_ANSWER_S = 60.0  # of Redis, to a swap of many items


def skip_site(
    site: Site, use_case: str, partition: int | None, *, to: str, dry_run: bool, who: str, why: str
) -> list[Skipped]:
    """Read on past what the log has lost; errors as of `ops.repair.skip`."""
    with site.redis_client() as client:
        history = _history(site, client)
        buffer = site.buffer(client)
        wrong = survey(use_case, partition, buffer, history)
        if dry_run:
            return list(plan(wrong, to, who=who, why=why, now_s=wall_clock_s()))
        return list(
            apply(
                use_case,
                wrong,
                to,
                buffer=buffer,
                positions=Positions(client),
                history=history,
                who=who,
                why=why,
                now_s=wall_clock_s(),
            )
        )


def rebuild_site(site: Site, lanes: list[Lane], *, whole: bool, dry_run: bool, who: str, why: str) -> list[Rebuilt]:
    """Mend the buffer of some lanes from the log; errors as of `ops.repair.rebuild`."""
    reports: list[Rebuilt] = []
    for use_case in sorted({lane.use_case for lane in lanes}):
        with site.redis_client(answer_s=_ANSWER_S) as client, open_history(site, client) as history:
            present, held = lane_keys(site, use_case), Lists(client).held(use_case)
            said = Replayed(
                use_case=use_case,
                keys=former_keys(site, use_case, held) | present,
                history=history,
                buried_as=Burials(history, use_case, site.secret),
                held=held,
                k=site.settings.buffer.items_per_stratum,
                max_age_s=IngestSettings().max_age_s,
            )
            chosen = [lane for lane in lanes if lane.use_case == use_case]
            with closing(open_appender(site, client)) as appender:
                letters = Letters(
                    use_case=use_case,
                    lanes=present,
                    appender=appender,
                    deciding=site.deciding(client, use_case),
                    secret=site.secret,
                )
                rebuild = Rebuild(
                    client=client, buffer=site.buffer(client), said=said, lanes=chosen, letters=letters, whole=whole
                )
                reports += rebuild.plan() if dry_run else rebuild.run(who=who, why=why)
    return reports


def _history(site: Site, client: redis.Redis) -> Callable[[], AbstractContextManager[History]]:
    return partial(open_history, site, client)
