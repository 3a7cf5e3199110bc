"""A version's signed numbers come out of its frozen rows again, for each task; what does not come out is told."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from ops.recompute.scoring import NotRecomputableError, Recomputed, recompute
from store.buffer.item import Item
from store.registry.manifest import SNAPSHOT_NAME
from store.registry.registry import Registry
from store.registry.signing import SigningKey
from tests.trainer import test_cycle as of_classify
from tests.trainer.chat import test_cycle as of_chat
from tests.trainer.chat import test_referee as of_referee
from tests.trainer.chat.talks import items as talks
from tests.trainer.questions import LANE, NOW_S, PROMPT_VERSION
from tests.trainer.questions import items as labelled
from tests.trainer.rank import test_cycle as of_rank
from tests.trainer.rank.lists import items as lists
from trainer.cycle import run_cycle
from trainer.judge.referee import RefereeEntry
from trainer.learn.chat import steps
from trainer.work import CycleWork, LaneTraining

Rows = Callable[[int], list[Item]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A lane with two versions, the second compared with the first."""

    work: CycleWork
    items: list[Item]
    first: str
    second: str

    @property
    def registry(self) -> Registry:
        return of_rank.registry(self.work)

    def recompute(self, version: str, items: Sequence[Item] | None = None) -> Recomputed:
        found = items if items is not None else self.items
        return recompute(self.work, version, found, self.registry)


def classify(folder: Path) -> tuple[CycleWork, Rows]:
    training = LaneTraining(lane=LANE, task="classify", prompt_version=PROMPT_VERSION, target=0.9, confidence=0.95)
    work = of_rank.work_in(folder)
    return replace(work, training=training, settings=of_classify.SETTINGS, now_s=NOW_S), labelled


def rank(folder: Path) -> tuple[CycleWork, Rows]:
    return of_rank.work_in(folder), lists


def chat(folder: Path) -> tuple[CycleWork, Rows]:
    return of_chat.work_in(folder), lambda count: talks(count, hard=0.1)


MADE: Final = {"classify": (classify, 400), "rank": (rank, 300), "chat": (chat, 200)}


@pytest.fixture(scope="module", params=list(MADE))
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    make, count = MADE[request.param]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("FEW", "MANY", "WARM"):
            patch.setattr(steps, name, of_chat.QUICK)
        work, rows = make(tmp_path_factory.mktemp(request.param))
        first = run_cycle(work, rows(count), {}).version
        assert first is not None
        registry, lane = of_rank.registry(work), work.training.lane
        key = SigningKey.load(work.signing_key)
        registry.moves(lane).append("promote", version=first, who="t", why="", key=key, now_s=work.now_s, anchor=True)
        now = replace(work, champion=first, anchor=first, kind="head", now_s=work.now_s + 9)
        items = rows(count + count // 3)
        second = run_cycle(now, items, {}).version
        assert second is not None
        yield Site(work=replace(work, now_s=work.now_s + 99), items=items, first=first, second=second)


def test_what_was_signed_comes_out_again_also_beside_a_champion(site: Site) -> None:
    for version in (site.first, site.second):
        found = site.recompute(version)
        assert found.differing == []
        manifest = site.registry.versions(site.work.training.lane).manifest(version)
        assert manifest.snapshot is not None
        assert found.rows == manifest.snapshot.calibrate + manifest.snapshot.judge > 20


def republished(site: Site, **changes: Any) -> str:
    """The second version with other words about itself."""
    versions = site.registry.versions(site.work.training.lane)
    opened = versions.open(site.second)
    manifest = msgspec.structs.replace(opened.manifest, **changes)
    return versions.publish(opened.folder, manifest, SigningKey.load(site.work.signing_key))


def test_a_signed_number_that_does_not_come_out_is_told(site: Site) -> None:
    manifest = site.registry.versions(site.work.training.lane).manifest(site.second)
    policy, verdict = manifest.policy, manifest.verdict
    assert policy is not None
    assert verdict is not None
    easier = msgspec.structs.replace(policy, threshold=0.001, coverage_ratio=1.0)
    told = site.recompute(republished(site, policy=easier)).differing
    assert any(one.startswith("threshold is signed as 0.0010") for one in told)
    assert any(one.startswith("coverage ratio is signed as 1.0000") for one in told)
    better = msgspec.structs.replace(verdict, student_agreement=1.0, outcome="held")
    told = site.recompute(republished(site, verdict=better)).differing
    assert any("signed as held" in one for one in told)


def test_rows_that_are_gone_are_not_made_up(site: Site) -> None:
    versions = site.registry.versions(site.work.training.lane)
    rows = msgspec.json.decode(versions.open(site.first).read(SNAPSHOT_NAME))["rows"]
    split = {row["id"]: row["split"] for row in rows}
    held = next(one.item_id for one in site.items if split.get(one.item_id) == "judge")
    with pytest.raises(NotRecomputableError, match="1 are gone from the buffer"):
        site.recompute(site.first, [one for one in site.items if one.item_id != held])
    learned = {item_id for item_id, part in split.items() if part == "train"}
    assert site.recompute(site.first, [one for one in site.items if one.item_id not in learned]).differing == []
    with pytest.raises(NotRecomputableError, match="never judged"):
        site.recompute(republished(site, verdict=None))
    with pytest.raises(NotRecomputableError, match="candidate"):
        site.recompute(republished(site, kind="candidate"))


def test_with_a_referee_its_logged_verdicts_are_read_and_nobody_is_asked(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("FEW", "MANY", "WARM"):
            patch.setattr(steps, name, of_chat.QUICK)
        judge = of_referee.Judge()
        work, result = of_referee.cycle(tmp_path, judge)
        asked, mute = len(judge.asked), of_referee.Judge(pairs_left=0)
        assert asked > 0
        entry: RefereeEntry = of_referee.entry(mute)
        again = replace(work, training=replace(work.training, referee=entry))
        found = recompute(again, result.version or "", of_referee.prose(200), of_rank.registry(work))
    assert found.differing == []
    assert (len(judge.asked), len(mute.asked)) == (asked, 0)
