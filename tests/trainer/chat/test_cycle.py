"""Whole cycles of `chat` with a tiny decoder: what is learned, certified, published, loaded and judged."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from store.registry.signing import SigningKey, TrustedKeys, public_path
from store.registry.students.records import ChatRecord
from store.registry.versions import Registry
from store.tasks.chat import ChatTerms
from store.tasks.tasks import LaneTerms
from tests.tiny import tiny_encoder
from tests.tiny_decoders import tiny_decoder
from tests.trainer.chat.talks import LANE, NOW_S, PROMPT_VERSION, items
from trainer.cycle import run_cycle
from trainer.judge.gate import GateLimits
from trainer.learn.chat import recipe
from trainer.learn.chat.fit import Tuning
from trainer.snapshot import SplitSettings
from trainer.work import CycleResult, CycleSettings, CycleWork, LaneTraining

QUICK = Tuning(layers=2, rank=4, alpha=16, epochs=3, learning_rate=1e-2, batch_rows=8, micro_rows=8)
TERMS = LaneTerms(chat=ChatTerms(max_prompt_tokens=200, max_answer_tokens=16))
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
TRAINING = LaneTraining(lane=LANE, task="chat", prompt_version=PROMPT_VERSION, target=0.9, confidence=0.8, terms=TERMS)


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Trainings of seconds."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("FEW", "MANY", "WARM"):
            patch.setattr(recipe, name, QUICK)
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
            model=str(tiny_decoder(folder / "decoder", seed=3)),
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
    return work, run_cycle(work, items(200, hard=0.2), {})


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
    assert (record.layers, record.rank, record.max_answer_tokens) == (2, 4, 16)
    assert record.rows == record.tuned_rows == record.neighbours > 60
    assert result.label_items == {"answers": record.rows}
    print(result.verdict, manifest.policy)
    assert result.verdict.outcome == "pass", result.verdict
    assert manifest.policy is not None
    assert manifest.policy.threshold is not None
    assert manifest.policy.coverage_ratio > 0.3
    assert json.loads(opened.read("adapter/adapter_config.json"))["r"] == 4
