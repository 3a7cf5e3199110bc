"""Whole cycles on a small support desk, with the real encoder."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import msgspec
import pytest

from store.buffer.item import Item
from store.cycles.signs import Stage
from store.errors import RegistryError
from store.policy import PolicyName
from store.registry.registry import Registry
from store.registry.signing import SigningKey, TrustedKeys
from store.registry.students.records import ClassifyRecord
from store.registry.versions import Versions
from store.student.classify import Student
from store.tasks.tasks import LaneTerms
from tests.trainer.questions import LANE, NOW_S, PROMPT_VERSION, an_item, items, questions
from trainer.cycle import run_cycle
from trainer.judge.equal import nothing_new
from trainer.judge.gate import GateLimits
from trainer.learn.classify.fine_tune import FineTuneSettings
from trainer.learn.classify.fit import FitSettings
from trainer.learn.classify.freezing import LabelFreezing
from trainer.snapshot import SplitSettings, freeze, split_of
from trainer.work import CycleResult, CycleSettings, CycleWork, LaneTraining, draft_folder

SPLIT = SplitSettings(salt="test", calibrate_ratio=0.3, judge_ratio=0.2)
SETTINGS = CycleSettings(
    encoder="minilm",
    device="cpu",
    precision="auto",
    threads=1,
    max_tokens=64,
    seed=1,
    min_items_per_label=5,
    quarantine_s=0.0,
    novelty_quantile=0.99,
    split=SPLIT,
    limits=GateLimits(delta=0.05, min_rows=20),
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features are a function of the text: the tests share them."""
    return tmp_path_factory.mktemp("features")


@pytest.fixture
def work(tmp_path: Path, cache: Path) -> CycleWork:
    keys = tmp_path / "keys"
    keys.mkdir()
    SigningKey.create(keys / "trainer", "trainer")
    return CycleWork(
        cycle_id="c1",
        training=LaneTraining(lane=LANE, task="classify", prompt_version=PROMPT_VERSION, target=0.9, confidence=0.95),
        kind="head",
        candidate=None,
        champion=None,
        anchor=None,
        now_s=NOW_S,
        settings=SETTINGS,
        redis_url="",
        items_per_stratum=1000,
        registry_root=tmp_path / "registry",
        trusted_keys=keys,
        signing_key=keys / "trainer",
        cache=cache,
        code_version="test",
    )


def registry(work: CycleWork) -> Registry:
    return Registry(work.registry_root, TrustedKeys.load(work.trusted_keys))


def promote(work: CycleWork, result: CycleResult) -> CycleWork:
    """Move the champion, as the daemon does, and return the next cycle's work."""
    assert result.version is not None
    key = SigningKey.load(work.signing_key)
    registry(work).moves(LANE).append(
        "promote", version=result.version, who="trainer", why="test", key=key, now_s=NOW_S, anchor=True
    )
    return replace(work, champion=result.version, anchor=result.version)


@pytest.fixture
def first(work: CycleWork) -> tuple[CycleWork, CycleResult]:
    return work, run_cycle(work, items(600), {"uuid/0": "600"})


def test_the_first_version_is_certified_signed_and_answers_as_it_was_trained_to(
    first: tuple[CycleWork, CycleResult],
) -> None:
    work, result = first
    assert result.verdict.outcome == "pass", result.verdict.refusals
    assert result.verdict.phase == "first"
    assert result.version is not None
    opened = registry(work).versions(LANE).open(result.version)
    policy = opened.manifest.policy
    assert policy is not None
    assert policy.threshold is not None
    assert policy.lower >= 0.9
    assert opened.manifest.snapshot is not None
    assert opened.manifest.snapshot.positions == {"uuid/0": "600"}
    assert opened.manifest.topics
    student = Student.load(opened, device="cpu")
    assert student.check_golden() <= student.golden_tolerance
    fresh = [pair for pair in questions(100, seed=9) if pair not in questions(600)][:60]
    probs = student.predict([text for text, _ in fresh]).probs
    agreed = [student.labels[row.argmax()] == label for row, (_, label) in zip(probs, fresh, strict=True)]
    assert sum(agreed) / len(agreed) > 0.8


def test_the_same_cycle_twice_is_the_same_version(first: tuple[CycleWork, CycleResult]) -> None:
    work, result = first
    assert run_cycle(work, list(reversed(items(600))), {"uuid/0": "600"}) == result


def test_with_too_few_labels_there_is_no_version_and_a_reason(work: CycleWork) -> None:
    result = run_cycle(work, items(40), {})
    assert result.version is None
    assert result.verdict.outcome == "inconclusive"
    assert result.verdict.refusals
    assert registry(work).versions(LANE).list() == []


def test_a_second_version_is_compared_with_the_first_on_the_same_rows(first: tuple[CycleWork, CycleResult]) -> None:
    work, result = first
    after = promote(work, result)
    second = run_cycle(after, items(800), {})
    assert second.version is not None
    assert second.version != result.version
    assert second.verdict.phase == "growth"
    assert second.verdict.difference is not None
    assert second.verdict.rows_judged > 20
    assert registry(work).versions(LANE).manifest(second.version).parent == result.version


def shuffled(all_items: list[Item], seed: int) -> list[Item]:
    labels = [next(iter(item.answers(PROMPT_VERSION))) for item in all_items]
    Random(seed).shuffle(labels)
    return [
        msgspec.structs.replace(item, tally={PROMPT_VERSION: {label: 1}})
        for item, label in zip(all_items, labels, strict=True)
    ]


def test_a_candidate_trained_on_shuffled_labels_fails_and_is_answered_by_its_judged_form(
    first: tuple[CycleWork, CycleResult],
) -> None:
    work, result = first
    planted = run_cycle(work, shuffled(items(800), 3), {})
    assert planted.version is not None
    after = replace(promote(work, result), kind="candidate", candidate=planted.version)
    judged = run_cycle(after, items(800), {})
    assert judged.verdict.outcome == "fail"
    assert judged.verdict.upper is not None
    assert judged.verdict.upper < -SETTINGS.limits.delta
    assert judged.version not in {None, planted.version}
    manifest = registry(work).versions(LANE).manifest(judged.version or "")
    assert (manifest.kind, manifest.parent) == ("candidate", result.version)


def test_a_damaged_candidate_fails_with_a_reason(first: tuple[CycleWork, CycleResult]) -> None:
    work, result = first
    other = run_cycle(work, items(650), {})
    assert other.version is not None
    head = registry(work).versions(LANE).open(other.version).path("head.safetensors")
    data = bytearray(head.read_bytes())
    data[-1] ^= 1
    head.unlink()
    head.write_bytes(bytes(data))
    judged = run_cycle(replace(promote(work, result), kind="candidate", candidate=other.version), items(650), {})
    assert judged.verdict.outcome == "fail"
    assert "head.safetensors" in judged.verdict.refusals[0]


def near_twin(text: str) -> str:
    """The same question in another tone."""
    return f"{text} please"


def test_no_training_row_is_linked_to_a_held_out_one(work: CycleWork) -> None:
    pool = items(600)
    rng = Random(5)
    planted: dict[str, Item] = {}
    held_out = {item.item_id for item in pool if split_of(SPLIT, item.item_id) != "train"}
    for item in pool:
        text = json.loads(msgspec.json.encode(item.input))["text"]
        twin = an_item(near_twin(text), next(iter(item.answers(PROMPT_VERSION))), rng, at_s=NOW_S - 10)
        if item.item_id in held_out and split_of(SPLIT, twin.item_id) == "train":
            planted[item.item_id] = twin
    assert len(planted) > 30
    result = run_cycle(work, [*pool, *planted.values()], {})
    assert result.version is not None
    opened = registry(work).versions(LANE).open(result.version)
    rows = msgspec.json.decode(opened.read("snapshot.json"))["rows"]
    trained = {row["id"] for row in rows if row["split"] == "train"}
    record = opened.manifest.snapshot
    assert record is not None
    assert record.moved_linked >= len(planted) * 0.8
    leaked = [twin for original, twin in planted.items() if twin.item_id in trained and original not in trained]
    assert leaked == []
    assert {row["cluster"] for row in rows if row["split"] == "train"}.isdisjoint(
        row["cluster"] for row in rows if row["split"] != "train"
    )


@pytest.mark.parametrize("change", [lambda work: replace(work, training=replace(work.training, prompt_version="x@y"))])
def test_answers_of_another_prompt_are_stale(work: CycleWork, change: Callable[[CycleWork], CycleWork]) -> None:
    result = run_cycle(change(work), items(100), {})
    assert result.version is None


def drafts(work: CycleWork) -> list[Path]:
    return [path for path in work.cache.rglob("draft*") if path.is_dir()]


def test_a_cycle_on_the_champions_own_rows_makes_no_version(first: tuple[CycleWork, CycleResult]) -> None:
    work, result = first
    after = replace(promote(work, result), now_s=NOW_S + 86_400.0)
    again = run_cycle(after, items(600), {"uuid/0": "900"})
    assert (again.version, again.verdict.outcome, again.verdict.rows_needed) == (None, "inconclusive", 0)
    assert "nothing new to learn from" in again.verdict.refusals[0]
    assert again.drawn == result.drawn
    assert registry(work).versions(LANE).list() == [result.version]
    alike = run_cycle(replace(after, code_version="next"), items(600), {})
    assert alike.version is None
    assert "the same weights under the same policy" in alike.verdict.refusals[0]
    promises_less = replace(after, training=replace(after.training, target=0.8))  # another policy: another version
    assert run_cycle(promises_less, items(600), {}).version is not None


def test_a_fine_tuning_cycle_on_a_heads_rows_has_something_to_learn(first: tuple[CycleWork, CycleResult]) -> None:
    work, result = first
    assert result.version is not None
    champion = registry(work).versions(LANE).open(result.version)
    recipe = champion.manifest.student.recipe
    rows = freeze(
        items(600),
        LabelFreezing(labels_min=SETTINGS.min_items_per_label),
        prompt_version=PROMPT_VERSION,
        split=SPLIT,
        quarantine_s=0.0,
        now_s=NOW_S + 5.0,
        seed=9,
        positions={},
    )
    assert nothing_new("head", rows, recipe, champion) is not None
    assert nothing_new("fine_tune", rows, recipe, champion) is None
    tuned = replace(champion, manifest=msgspec.structs.replace(champion.manifest, kind="fine_tune"))
    assert nothing_new("fine_tune", rows, recipe, tuned) is not None
    assert nothing_new("head", rows, "another", champion) is None
    label = next(iter(items(1)[0].answers(PROMPT_VERSION)))
    other = replace(rows, rows=(replace(rows.rows[0], label=f"not {label}"), *rows.rows[1:]))
    assert nothing_new("head", other, recipe, champion) is None


def test_a_candidate_that_answers_as_the_champion_does_is_answered_and_not_published(
    first: tuple[CycleWork, CycleResult],
) -> None:
    work, result = first
    after = promote(work, result)
    twin = registry(work).versions(LANE).open(result.version or "")
    key = SigningKey.load(work.signing_key)
    copy = msgspec.structs.replace(twin.manifest, created_s=NOW_S + 1.0, kind="candidate")
    candidate = registry(work).versions(LANE).publish(twin.folder, copy, key)
    judged = run_cycle(replace(after, kind="candidate", candidate=candidate), items(600), {})
    assert (judged.version, judged.verdict.outcome) == (candidate, "inconclusive")
    assert "the same weights" in judged.verdict.refusals[0]


def test_a_candidate_whose_labels_no_gateway_would_take_fails(first: tuple[CycleWork, CycleResult]) -> None:
    work, result = first
    after = promote(work, result)
    twin = registry(work).versions(LANE).open(result.version or "")
    record = twin.manifest.student
    assert isinstance(record, ClassifyRecord)
    student = msgspec.structs.replace(record, labels=list(reversed(record.labels)))
    turned = msgspec.structs.replace(twin.manifest, student=student, kind="candidate")
    candidate = registry(work).versions(LANE).publish(twin.folder, turned, SigningKey.load(work.signing_key))
    judged = run_cycle(replace(after, kind="candidate", candidate=candidate), items(600), {})
    assert (judged.version, judged.verdict.outcome) == (candidate, "fail")
    assert "would become" in judged.verdict.refusals[0]


def test_no_draft_outlives_its_cycle_whatever_becomes_of_it(work: CycleWork, monkeypatch: pytest.MonkeyPatch) -> None:
    draft_folder(work.cache, LANE).mkdir(parents=True)
    (draft_folder(work.cache, LANE) / "half.safetensors").write_bytes(b"of a cycle that was killed")
    assert run_cycle(work, items(40), {}).version is None
    assert drafts(work) == []

    def full(*_: object) -> None:
        assert drafts(work) != []
        message = "nothing was published: [Errno 28] No space left on device"
        raise RegistryError(message)

    with monkeypatch.context() as patch:
        patch.setattr(Versions, "publish", full)
        with pytest.raises(RegistryError, match="No space left"):
            run_cycle(work, items(600), {})
    assert drafts(work) == []
    made = run_cycle(work, items(600), {})
    assert made.version is not None
    assert drafts(work) == []


def test_a_cycle_without_rows_says_in_its_verdict_why_and_what_to_do(work: CycleWork) -> None:
    training = replace(work.training, prompt_version="teacher-1@another", terms=LaneTerms(labels=("refund",)))
    refusals = run_cycle(replace(work, training=training), items(40), {}).verdict.refusals
    assert any(
        f"40 of 40 items were paid under another prompt ({PROMPT_VERSION})" in why
        and "`understudy prompt accept --from prompt-1 --reason" in why
        for why in refusals
    )
    off_list = replace(work, training=replace(work.training, terms=LaneTerms(labels=("nothing", "of the kind"))))
    assert any(
        "40 of 40 items are off today's list" in why for why in run_cycle(off_list, items(40), {}).verdict.refusals
    )
    young = replace(work, now_s=NOW_S - 1e6 + 1.0, settings=replace(work.settings, quarantine_s=60.0))
    assert any(
        "younger than trainer.quarantine_s (60 s)" in why for why in run_cycle(young, items(40), {}).verdict.refusals
    )


@pytest.mark.parametrize("policy", ["promise", "budget"])
def test_a_fine_tuning_on_the_rows_of_a_head_that_serves_is_adopted_or_refused_like_any_challenger(
    work: CycleWork, policy: PolicyName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Day zero: the head first, then the fine-tuned version; on one set of rows."""
    short = FineTuneSettings(epochs=1)  # what it learns does not matter here, and an epoch is a sixth of the time
    monkeypatch.setattr("trainer.learn.classify.recipe.FitSettings", partial(FitSettings, tuning=short))
    said = list[tuple[Stage, float | None]]()
    lane = replace(work, training=replace(work.training, policy=policy))
    head = run_cycle(lane, items(400), {})
    assert head.verdict.phase == "first"
    after = replace(promote(lane, head), kind="fine_tune")
    tuned = run_cycle(after, items(400), {}, lambda stage, done: said.append((stage, done)))
    assert tuned.version is not None
    assert tuned.verdict.phase == "growth"
    assert tuned.verdict.outcome == "pass", tuned.verdict.refusals
    manifest = registry(work).versions(LANE).manifest(tuned.version)
    assert (manifest.kind, manifest.parent) == ("fine_tune", head.version)
    if policy == "promise":  # compared on the rows that judged the head: neither has learned from them
        assert tuned.verdict.rows_judged == head.verdict.rows_judged > 20
        assert tuned.verdict.upper is not None
        assert tuned.verdict.upper >= -SETTINGS.limits.delta
    stages = list(dict.fromkeys(stage for stage, _ in said))
    assert stages == ["embedding", "fine_tuning", "fitting", "judging", "publishing"]
    steps = [done for stage, done in said if stage == "fine_tuning"]
    assert steps[0] == 0.0
    assert steps == sorted(steps, key=lambda done: done or 0.0)
    assert len(steps) > 5
