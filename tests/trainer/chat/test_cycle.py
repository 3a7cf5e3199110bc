"""Whole cycles of `chat` with a tiny decoder: what is learned, certified, published, loaded and judged."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from store.errors import SettingsError
from store.policy import PolicyName
from store.registry.registry import Registry
from store.registry.signing import SigningKey, TrustedKeys, public_path
from store.registry.students.records import ChatRecord
from store.student.chat.adapter import Trained
from store.student.chat.chatter import Chatter
from store.student.chat.stack import Stack
from store.student.loaded import ChatOpinion
from store.student.tasks import load
from store.tasks.chat import ChatTerms
from store.tasks.tasks import LaneTerms
from tests.tiny import tiny_encoder
from tests.trainer.chat.talks import LANE, NOW_S, PROMPT_VERSION, RULES, calm_decoder, items
from trainer.cycle import run_cycle
from trainer.judge.gate import GateLimits
from trainer.learn.chat import steps
from trainer.learn.chat.freezing import chatter
from trainer.learn.chat.recipe import _ranks
from trainer.learn.chat.training.fit import Ranks, fit
from trainer.learn.chat.training.job import Tuning
from trainer.snapshot import SplitSettings
from trainer.work import CycleResult, CycleSettings, CycleWork, LaneTraining, StudentSettings, settings_of

QUICK = Tuning(layers=3, rank=8, alpha=16, epochs=10, learning_rate=1e-2, batch_rows=8, micro_rows=8)
TERMS = LaneTerms(chat=ChatTerms(max_prompt_tokens=200, max_answer_tokens=16))
KNOWN = 320  # questions: enough that what is certified of them does not hang by a few
SETTINGS = CycleSettings(
    encoder="tiny",
    model="tiny",
    device="cpu",
    precision="fp32",
    threads=1,
    max_tokens=32,
    seed=0,
    min_items_per_label=5,
    quarantine_s=0.0,
    novelty_quantile=0.99,
    split=SplitSettings(salt="salt", calibrate_ratio=0.25, judge_ratio=0.25),
    limits=GateLimits(delta=0.05, min_rows=20),
)
TRAINING = LaneTraining(lane=LANE, task="chat", prompt_version=PROMPT_VERSION, target=0.85, confidence=0.8, terms=TERMS)


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Trainings of seconds."""
    with pytest.MonkeyPatch.context() as patch:
        for name, tuning in (("FEW", QUICK), ("MANY", QUICK), ("WARM", replace(QUICK, epochs=3, learning_rate=3e-3))):
            patch.setattr(steps, name, tuning)
        yield


def work_in(folder: Path) -> CycleWork:
    trusted = folder / "trusted"
    trusted.mkdir(parents=True)
    SigningKey.create(folder / "trainer", "trainer")
    (trusted / "trainer.pub").write_bytes(public_path(folder / "trainer").read_bytes())
    return CycleWork(
        cycle_id="c",
        training=TRAINING,
        kind="fine_tune",
        candidate=None,
        champion=None,
        anchor=None,
        now_s=NOW_S,
        settings=replace(
            SETTINGS,
            encoder=str(tiny_encoder(folder / "encoder", layers=1)),
            model=str(calm_decoder(folder / "decoder")),
        ),
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
    return work, run_cycle(work, items(KNOWN, hard=0.1), {})


def registry(work: CycleWork) -> Registry:
    return Registry(work.registry_root, TrustedKeys.load(work.trusted_keys))


def promoted(work: CycleWork, result: CycleResult) -> CycleWork:
    registry(work).moves(LANE).append(
        "promote", version=result.version, who="t", why="", key=SigningKey.load(work.signing_key), now_s=NOW_S
    )
    return replace(work, champion=result.version, anchor=result.version, now_s=NOW_S + 1)


def test_the_first_version_is_certified_and_says_how_it_was_made(first: tuple[CycleWork, CycleResult]) -> None:
    work, result = first
    assert result.version is not None, result.verdict
    opened = registry(work).versions(LANE).open(result.version)
    manifest, record = opened.manifest, opened.manifest.student
    assert isinstance(record, ChatRecord)
    assert (manifest.task, manifest.kind, record.fine_tune) == ("chat", "fine_tune", "fresh")
    assert (record.layers, record.rank, record.max_answer_tokens) == (3, 8, 16)
    assert record.rows == record.tuned_rows == record.neighbours > 60
    assert result.label_items == {"answers": record.rows}
    assert result.verdict.outcome == "pass", result.verdict
    assert manifest.policy is not None
    assert manifest.policy.threshold is not None
    assert manifest.policy.coverage_ratio > 0.3
    assert json.loads(opened.read("adapter/adapter_config.json"))["r"] == 8


def test_each_moment_has_numbers_of_its_own_and_a_threshold_that_is_certified_by_itself(
    first: tuple[CycleWork, CycleResult],
) -> None:
    work, result = first
    opened = registry(work).versions(LANE).open(result.version or "")
    policy, student = opened.manifest.policy, loaded(work, result.version)
    assert policy is not None
    assert policy.early.keys() == set(student.moments) == {"prompt", "first_tokens"}
    assert student.early is not None
    assert student.early.tokens == opened.manifest.student.deciding_tokens >= 3  # type: ignore[union-attr]
    snapshot = json.loads(opened.read("snapshot.json"))["rows"]
    kept = {one.item_id: one for one in items(KNOWN, hard=0.1)}
    trained = {row["cluster"] for row in snapshot if row["split"] == "train"}
    trials: dict[int, str] = {}
    for row in snapshot:
        if row["split"] != "train" and row["cluster"] not in trained:
            trials.setdefault(row["cluster"], row["id"])
    held = [kept[item_id].input for item_id in trials.values()]
    said = student.look(held)
    for moment, found in policy.early.items():
        sure = np.array([one.early[moment].confidence for one in said])
        if found.threshold is None:
            assert (found.coverage_ratio, found.rows) == (0.0, 0)
        else:
            assert found.lower >= TRAINING.target
            novel = np.array([one.novelty for one in said]) > (policy.novelty_threshold or np.inf)
            assert ((sure >= found.threshold) & ~novel).mean() == pytest.approx(found.coverage_ratio, abs=0.03)
        assert policy.at(moment).threshold == found.threshold
    assert policy.early["first_tokens"].threshold is not None, "with a tiny decoder's JSON the first tokens tell"
    assert policy.at("end") is policy


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft's, of a name in transformers
def test_the_adapter_is_one_that_peft_loads(first: tuple[CycleWork, CycleResult], tmp_path: Path) -> None:
    work, result = first
    opened = registry(work).versions(LANE).open(result.version or "")
    for name in opened.manifest.files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(opened.read(name))
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype="float32")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    student = loaded(work, result.version)
    ids = torch.tensor([student.decoder.template.render([{"role": "user", "content": "r money back"}])])
    with torch.inference_mode():
        ours = student.decoder.model(input_ids=ids).logits
        assert torch.allclose(theirs(input_ids=ids).logits, ours, atol=1e-4)


def loaded(work: CycleWork, version: str | None) -> Chatter:
    return chatter(load(registry(work).versions(LANE).open(version or ""), device="cpu", precision="fp32"))


def test_the_published_version_answers_as_the_judged_one_did(first: tuple[CycleWork, CycleResult]) -> None:
    work, result = first
    student = loaded(work, result.version)
    assert student.check_golden() <= student.golden_tolerance
    new = items(KNOWN + 60, hard=0.1)[KNOWN:]
    said = student.look([item.input for item in new])
    right = []
    for item, opinion in zip(new, said, strict=True):
        assert isinstance(opinion, ChatOpinion)
        (answer,) = item.tally[PROMPT_VERSION]
        right.append(RULES.agree(answer, opinion.output))
    policy = student.policy
    assert policy is not None
    assert policy.threshold is not None
    sure = np.array([opinion.confidence for opinion in said]) >= policy.threshold
    assert np.mean(right) > 0.7
    assert np.mean(np.array(right)[sure]) >= 0.85


def test_every_training_of_a_cycle_is_spread_over_the_ranks_that_the_lane_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[Ranks | None]()

    def here(*given: Any, ranks: Ranks | None, **more: Any) -> Trained:
        asked.append(ranks)
        return fit(*given, **more)

    monkeypatch.setattr(steps, "fit", here)
    monkeypatch.setattr(steps, "FEW", replace(QUICK, epochs=1))
    work = work_in(tmp_path)
    training = replace(work.training, student=StudentSettings(ranks=2, strategy="fsdp"))
    run_cycle(replace(work, settings=settings_of(training, work.settings)), items(60, hard=0.1), {})
    want = Ranks(size=2, strategy="fsdp", directory=Path(work.settings.model or ""))
    assert len(asked) >= 3  # both halves, and all rows
    assert all(one == want for one in asked)


def test_more_ranks_than_devices_are_a_setting_to_correct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    stack = SimpleNamespace(device=torch.device("cuda"))
    base: Any = SimpleNamespace(decoder=SimpleNamespace(stack=stack), directory=Path())
    with pytest.raises(SettingsError, match=r"lanes\.student\.ranks: 2 processes want a GPU each, and 1 are seen here"):
        _ranks(replace(SETTINGS, ranks=2), base)


def test_a_head_cycle_keeps_the_adapter_and_knows_more_prompts(
    first: tuple[CycleWork, CycleResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    def untimely(*_: object, **__: object) -> None:
        message = "a head cycle trained a decoder"
        raise AssertionError(message)

    work, result = first
    after = promoted(work, result)
    monkeypatch.setattr(steps, "fit", untimely)
    made = run_cycle(replace(after, kind="head", now_s=NOW_S + 2), items(KNOWN + 30, hard=0.1), {})
    assert made.version is not None, made.verdict
    before, now = (registry(work).versions(LANE).manifest(one or "") for one in (result.version, made.version))
    assert isinstance(now.student, ChatRecord)
    assert isinstance(before.student, ChatRecord)
    assert (now.kind, now.student.fine_tune, now.student.tuned_rows) == ("head", "kept", before.student.rows)
    assert now.student.neighbours > before.student.neighbours
    same = {name for name, entry in now.files.items() if before.files[name] == entry}
    assert {"adapter/adapter_model.safetensors", "base/model.safetensors", "confidence.safetensors"} <= same
    assert "neighbours.safetensors" not in same


@pytest.mark.parametrize("policy", ["promise", "budget"])
def test_a_warm_challenger_goes_on_from_the_champions_adapter(
    first: tuple[CycleWork, CycleResult], policy: PolicyName
) -> None:
    work, result = first
    training = replace(work.training, policy=policy)
    after = replace(work, champion=result.version, training=training, kind="fine_tune", now_s=NOW_S + 3)
    made = run_cycle(after, items(KNOWN + 40, hard=0.1), {})
    assert made.version is not None, made.verdict
    record = registry(work).versions(LANE).manifest(made.version).student
    assert isinstance(record, ChatRecord)
    assert record.fine_tune == "warm"
    assert made.verdict.rows_judged > 15
    assert made.verdict.outcome in {"pass", "inconclusive"}
    assert (made.verdict.student_agreement or 0.0) > 0.7


def test_the_same_conversations_are_nothing_new_and_other_terms_are(first: tuple[CycleWork, CycleResult]) -> None:
    work, result = first
    after = replace(work, champion=result.version, now_s=NOW_S + 1)
    again = run_cycle(after, items(KNOWN, hard=0.1), {})
    assert (again.version, again.nothing_new) == (None, True)
    shorter = LaneTerms(chat=ChatTerms(max_prompt_tokens=200, max_answer_tokens=12))
    other = run_cycle(
        replace(after, kind="head", training=replace(work.training, terms=shorter)), items(KNOWN, hard=0.1), {}
    )
    assert other.version is not None, other.verdict


def test_without_an_answer_or_a_version_there_is_no_student_and_a_reason(
    first: tuple[CycleWork, CycleResult],
) -> None:
    work, _ = first
    assert "wait for more" in run_cycle(work, [], {}).verdict.refusals[0]
    assert "start a fine-tuning" in run_cycle(replace(work, kind="head"), items(20), {}).verdict.refusals[0]


def test_a_lane_without_a_decoder_is_told_which_setting_to_mend(first: tuple[CycleWork, CycleResult]) -> None:
    work, _ = first
    with pytest.raises(SettingsError, match=r"lanes\.student\.model"):
        run_cycle(replace(work, settings=replace(work.settings, model=None)), items(20), {})


def test_a_wide_decoder_is_trained_at_a_lower_rate_and_a_gpu_trains_all_layers() -> None:
    def rate(hidden_size: int, device: str = "cpu") -> tuple[float, int | None]:
        stack = cast("Stack", SimpleNamespace(hidden_size=hidden_size, device=torch.device(device)))
        found = steps.tuning_of(1000, stack=stack)
        return found.learning_rate, found.layers

    assert rate(32) == rate(576) == (QUICK.learning_rate, QUICK.layers)
    assert rate(2304, "cuda") == (QUICK.learning_rate / 4, None)
