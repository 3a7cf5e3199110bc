"""Whole cycles of `rank` on a small shop: what is learned, certified, published, loaded and judged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from store.policy import PolicyName
from store.registry.registry import Registry
from store.registry.signing import SigningKey, TrustedKeys, public_path
from store.registry.students.records import RankRecord
from store.student.loaded import RankOpinion
from store.student.tasks import load
from store.tasks.rank import Tolerance
from store.tasks.tasks import LaneTerms
from tests.tiny import tiny_encoder
from tests.trainer.rank.lists import LANE, NOW_S, PROMPT_VERSION, RULES, TOLERANCE, items
from trainer.cycle import run_cycle
from trainer.judge.gate import GateLimits
from trainer.snapshot import SplitSettings
from trainer.work import CycleResult, CycleSettings, CycleWork, LaneTraining

SETTINGS = CycleSettings(
    encoder="tiny",
    device="cpu",
    precision="fp32",
    threads=1,
    max_tokens=32,
    seed=0,
    min_items_per_label=5,
    quarantine_s=0.0,
    novelty_quantile=0.99,
    split=SplitSettings(salt="salt", calibrate_ratio=0.2, judge_ratio=0.2),
    limits=GateLimits(delta=0.05, min_rows=30),
)
TRAINING = LaneTraining(
    lane=LANE,
    task="rank",
    prompt_version=PROMPT_VERSION,
    target=0.9,
    confidence=0.8,
    terms=LaneTerms(tolerance=TOLERANCE),
)


def work_in(folder: Path) -> CycleWork:
    trusted = folder / "trusted"
    trusted.mkdir(parents=True)
    SigningKey.create(folder / "trainer", "trainer")
    (trusted / "trainer.pub").write_bytes(public_path(folder / "trainer").read_bytes())
    return CycleWork(
        cycle_id="c",
        training=TRAINING,
        kind="head",
        candidate=None,
        champion=None,
        anchor=None,
        now_s=NOW_S,
        settings=replace(SETTINGS, encoder=str(tiny_encoder(folder / "encoder", layers=3))),
        redis_url="",
        items_per_stratum=1000,
        registry_root=folder / "registry",
        trusted_keys=trusted,
        signing_key=folder / "trainer",
        cache=folder / "cache",
        code_version="test",
    )


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[CycleWork, CycleResult]:
    work = work_in(tmp_path_factory.mktemp("site"))
    return work, run_cycle(work, items(400), {})


def registry(work: CycleWork) -> Registry:
    return Registry(work.registry_root, TrustedKeys.load(work.trusted_keys))


def promoted(work: CycleWork, result: CycleResult) -> CycleWork:
    registry(work).moves(LANE).append(
        "promote", version=result.version, who="t", why="", key=SigningKey.load(work.signing_key), now_s=NOW_S
    )
    return replace(work, champion=result.version, anchor=result.version, now_s=NOW_S + 1)


def test_the_first_version_is_certified_and_says_what_its_agreement_is(first: tuple[CycleWork, CycleResult]) -> None:
    work, result = first
    assert result.version is not None, result.verdict
    manifest = registry(work).versions(LANE).manifest(result.version)
    record = manifest.student
    assert isinstance(record, RankRecord)
    assert (manifest.task, record.k, record.epsilon, record.scored) == ("rank", 1, 0.05, True)
    assert (record.fine_tune, record.tuned_share) == ("none", 0.0)
    assert record.items > 30
    assert record.longest_list == 6
    assert record.rows > 200
    assert result.verdict.outcome == "pass", result.verdict
    assert manifest.policy is not None
    assert manifest.policy.threshold is not None
    assert manifest.policy.coverage_ratio > 0.3
    assert manifest.topics
    assert result.label_items == {"lists": record.rows}


def test_the_published_version_answers_as_the_judged_one_did(first: tuple[CycleWork, CycleResult]) -> None:
    work, result = first
    student = load(registry(work).versions(LANE).open(result.version or ""), device="cpu", precision="fp32")
    assert student.check_golden() <= 1e-5
    new = items(500)[400:]
    said = student.look([item.input for item in new])
    right = []
    for item, opinion in zip(new, said, strict=True):
        assert isinstance(opinion, RankOpinion)
        (answer,) = item.tally[PROMPT_VERSION]
        right.append(RULES.agree(answer, opinion.output))
    assert np.mean(right) > 0.55  # a list has six documents
    policy = student.policy
    assert policy is not None
    assert policy.threshold is not None
    sure = np.array([opinion.confidence for opinion in said]) >= policy.threshold
    assert np.mean(np.array(right)[sure]) >= 0.9
    assert np.mean(np.array(right)[sure]) > np.mean(right)


@pytest.mark.parametrize("policy", ["promise", "budget"])
def test_a_fine_tuned_challenger_is_made_judged_and_loaded(
    first: tuple[CycleWork, CycleResult], policy: PolicyName
) -> None:
    work, result = first
    training = replace(work.training, policy=policy)
    after = replace(
        promoted(work, result) if policy == "promise" else replace(work, champion=result.version), training=training
    )
    made = run_cycle(replace(after, kind="fine_tune", now_s=NOW_S + 2), items(450), {})
    assert made.version is not None, made.verdict
    opened = registry(work).versions(LANE).open(made.version)
    record = opened.manifest.student
    assert isinstance(record, RankRecord)
    assert (opened.manifest.kind, record.fine_tune, record.tuned_share) == ("fine_tune", "fresh", 0.5)
    assert made.verdict.rows_judged > 20
    assert made.verdict.outcome in {"pass", "fail", "inconclusive"}
    student = load(opened, device="cpu", precision="fp32")
    assert student.check_golden() <= 1e-4
    (opinion,) = student.look([items(1)[0].input])
    assert len(opinion.members) == 2
    student.check_follows(load(registry(work).versions(LANE).open(result.version or "")), removal_declared=False)


def test_the_same_lists_are_nothing_new_and_another_tolerance_is(first: tuple[CycleWork, CycleResult]) -> None:
    work, result = first
    after = replace(work, champion=result.version, now_s=NOW_S + 1)
    again = run_cycle(after, items(400), {})
    assert (again.version, again.nothing_new) == (None, True)
    wider = LaneTerms(tolerance=Tolerance(k=2, epsilon=0.2))
    other = run_cycle(replace(after, training=replace(work.training, terms=wider)), items(400), {})
    assert other.version is not None
    record = registry(work).versions(LANE).manifest(other.version).student
    assert isinstance(record, RankRecord)
    assert (record.k, record.epsilon) == (2, 0.2)


def test_orders_alone_are_learned_from(tmp_path: Path) -> None:
    work = work_in(tmp_path)
    result = run_cycle(work, items(300, orders=True), {})
    assert result.version is not None, result.verdict
    record = registry(work).versions(LANE).manifest(result.version).student
    assert isinstance(record, RankRecord)
    assert (record.scored, record.epsilon) == (False, 0.0)
    assert (result.verdict.student_agreement or 0.0) > 0.4


def test_without_a_list_there_is_no_version_and_a_reason(tmp_path: Path) -> None:
    result = run_cycle(work_in(tmp_path), [], {})
    assert result.version is None
    assert "two documents" in result.verdict.refusals[0]


def test_a_submitted_version_is_judged_like_any_other(first: tuple[CycleWork, CycleResult]) -> None:
    work, result = first
    asked = replace(work, kind="candidate", candidate=result.version, now_s=NOW_S + 3)
    found = run_cycle(asked, items(450), {})
    assert found.version not in {None, result.version}
    manifest = registry(work).versions(LANE).manifest(found.version or "")
    assert (manifest.kind, manifest.verdict) == ("candidate", found.verdict)
    again = run_cycle(replace(asked, champion=result.version, candidate=result.version), items(400), {})
    assert (again.version, again.verdict.outcome) == (result.version, "inconclusive")
    assert "the same weights" in again.verdict.refusals[0]
