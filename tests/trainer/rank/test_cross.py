"""A lane whose students stand on a cross-encoder: fitted, fine-tuned, published, loaded, judged."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import safetensors.torch

from store.errors import SettingsError
from store.event import RankInput
from store.registry.students.records import RankRecord
from store.student.encoder import Encoder
from store.student.rank.bases import CrossEncoderBase, load_base
from store.student.rank.cross import CrossEncoder
from store.student.rank.ranker import Ranker
from store.student.tasks import load
from tests.tiny import tiny_cross_encoder, tiny_encoder
from tests.trainer.rank.lists import LANE, a_list, items
from tests.trainer.rank.test_cycle import SETTINGS, promoted, registry, work_in
from trainer.cycle import run_cycle
from trainer.learn.rank.fine_tune import RankTuning, TextList, fine_tune
from trainer.learn.rank.head import untaught
from trainer.learn.rank.recipe import RECIPE
from trainer.work import CycleResult, CycleWork


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> CrossEncoder:
    folder = tiny_cross_encoder(tmp_path_factory.mktemp("cross"), layers=2)
    found = load_base(folder, device="cpu", precision="fp32", max_tokens=32)
    assert isinstance(found, CrossEncoder)
    return found


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[CycleWork, CycleResult]:
    folder = tmp_path_factory.mktemp("site")
    work = work_in(folder)
    work = replace(
        work, settings=replace(work.settings, encoder=str(tiny_cross_encoder(folder / "cross", layers=2))), kind="head"
    )
    return work, run_cycle(work, items(300), {})


def served(work: CycleWork, result: CycleResult) -> Ranker:
    student = load(registry(work).versions(LANE).open(result.version or ""), device="cpu", precision="fp32")
    assert isinstance(student, Ranker)
    return student


def test_a_cycle_on_a_cross_encoder_learns_favourites_and_its_version_answers_as_it_was_judged(
    first: tuple[CycleWork, CycleResult],
) -> None:
    work, result = first
    assert result.version is not None, result.verdict
    student = served(work, result)
    assert isinstance(student.base, CrossEncoderBase)
    assert student.vectors is None
    assert student.check_golden() <= 1e-5
    record = registry(work).versions(LANE).manifest(result.version).student
    assert isinstance(record, RankRecord)
    assert record.items > 30
    assert result.verdict.student_agreement is not None
    assert result.verdict.student_agreement > 0.5


def test_a_fine_tuning_cycle_goes_on_from_the_champion_and_publishes_a_member_of_its_own(
    first: tuple[CycleWork, CycleResult],
) -> None:
    work, result = first
    tuning = replace(promoted(work, result), kind="fine_tune")
    found = run_cycle(tuning, items(330), {})
    assert found.version is not None, found.verdict
    student = served(tuning, found)
    assert student.tuned is not None
    assert any(name.startswith("classifier.") for name in student.tuned.changed)
    assert not any("embeddings" in name for name in student.tuned.changed)
    assert student.check_golden() <= 1e-5
    (said,) = student.rankings([a_list(Random(1))])
    assert len(said.members) == 2


def test_pairs_are_told_apart_whatever_stands_beside_them(encoder: CrossEncoder) -> None:
    pairs = [("money", "a refund"), ("money", "the parcel is late today with my password"), ("parcel", "a refund")]
    together = encoder.outputs(pairs)
    assert len(set(together.tolist())) == 3
    for pair, output in zip(pairs, together, strict=True):
        assert encoder.outputs([pair])[0] == output
    assert encoder.outputs([("a refund", "money")])[0] != together[0]
    assert encoder.outputs([]).shape == (0,)


def test_a_pair_that_was_just_read_costs_nothing_and_a_long_one_is_too_long(encoder: CrossEncoder) -> None:
    base, value = CrossEncoderBase(encoder), RankInput(query="money", documents=["refund", "late parcel", "refund"])
    before = base.tokens(value)
    (first,) = base.match([value])
    assert encoder.about_tokens("money") == base.tokens(value) < before
    (again,) = base.match([value])
    assert np.array_equal(first.similarity, again.similarity)
    assert first.similarity[0] == first.similarity[2]
    assert base.fresh().tokens(value) == before
    long = " ".join(["late"] * 17)
    assert not base.too_long(RankInput(query="money", documents=[long]))
    assert base.too_long(RankInput(query=long, documents=["money", long]))


def test_a_fine_tuned_cross_encoder_learns_what_words_mean_and_the_same_seed_gives_the_same(
    encoder: CrossEncoder,
) -> None:
    rng = Random(6)
    lists = [a_list(rng) for _ in range(140)]

    def meant(value: RankInput) -> Sequence[float]:
        return [0.3 * ("money" in one.split()) for one in value.documents]

    taught = [
        TextList(query=one.query, documents=one.documents, biases=np.zeros(6), target=np.array(meant(one)), weight=1.0)
        for one in lists[:100]
    ]
    one, other = (
        fine_tune(
            encoder,
            taught,
            head=untaught(0),
            start=None,
            settings=RankTuning(epochs=4, learning_rate=3e-3),
            seed=1,
        )
        for _ in range(2)
    )
    assert all(bool((one.changed[name] == other.changed[name]).all()) for name in one.changed)

    def right(found: Encoder) -> float:
        assert isinstance(found, CrossEncoder)
        base = CrossEncoderBase(found)
        said = zip(lists[100:], base.match(lists[100:]), strict=True)
        return float(np.mean([meant(value)[int(one.similarity.argmax())] == max(meant(value)) for value, one in said]))

    assert right(one.base.encoder) > right(encoder) + 0.1
    assert right(encoder) == right(encoder.twin({}))  # the base is as it was


def test_a_folder_that_is_no_base_is_refused_by_what_is_wrong_with_it(tmp_path: Path) -> None:
    def opened(folder: Path) -> None:
        RECIPE.base(replace(SETTINGS, encoder=str(folder)))

    with pytest.raises(SettingsError, match=r"classifier with 3 outputs.*num_labels = 1"):
        opened(tiny_cross_encoder(tmp_path / "three", outputs=3))
    headless = tiny_cross_encoder(tmp_path / "headless")
    tensors = safetensors.torch.load_file(headless / "model.safetensors")
    body = {name: tensor for name, tensor in tensors.items() if not name.startswith("classifier.")}
    safetensors.torch.save_file(body, headless / "model.safetensors")
    with pytest.raises(SettingsError, match=r"model\.safetensors lacks .*classifier"):
        opened(headless)
    opened(tiny_encoder(tmp_path / "body"))
