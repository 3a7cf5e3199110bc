"""What a ranking version's numbers are made of: its draws, its members' mix, and the golden scores it is checked by."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from store.errors import CorruptVersionError
from store.event import RankInput
from store.registry.students.records import RankGolden
from store.student.encoder import Encoder, FloatArray
from store.student.rank.bases import BiEncoderBase
from store.student.rank.head import RankHead, confidence
from store.student.rank.ranker import Ranker, TunedRanker
from store.student.rank.vectors import _OVERHEAD_BYTES, VectorCache, sentence_vectors, shared_vectors
from store.tasks.rank import Tolerance, document_key, loss
from tests.tiny import tiny_encoder

DOCUMENTS = ["a red kettle", "a blue tent with four poles", "running shoes", "an oak shelf", "a kettle"]
KEYS = [document_key(document) for document in DOCUMENTS]
HALF_THE_DRAWS = 50


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder.load(tiny_encoder(tmp_path_factory.mktemp("encoder")), device="cpu", precision="fp32", max_tokens=64)


@pytest.fixture(scope="module")
def ranker(encoder: Encoder) -> Ranker:
    rng = np.random.default_rng(0)
    weight = rng.normal(0.0, 0.1, 2 * encoder.hidden_size).astype(np.float32)
    return Ranker(
        base=BiEncoderBase(vectors=VectorCache(encoder)),
        head=RankHead(slope=3.0, sigma=0.1, weight=weight, items={KEYS[2]: 0.5}, new_sigma=0.3),
        reference=sentence_vectors(encoder, ["boil water", "sleep outside"]),
        tolerance=Tolerance(),
        made_in="fp32",
    )


@pytest.fixture(scope="module")
def golden(ranker: Ranker) -> Ranker:
    return replace(ranker, golden=tuple(ranker.golden_outputs()))


@pytest.mark.parametrize("scores", [[0.5, 0.46, 0.4], [0.5, 0.4, 0.3, 0.28, 0.27], [0.1, 0.1], [1.0, 0.0, 0.9, 0.8]])
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("epsilon", [0.0, 0.05])
def test_confidence_is_counted_over_the_hundred_draws_that_every_process_makes(
    scores: list[float], k: int, epsilon: float
) -> None:
    """A threshold is certified on these very draws: other ones, on a gateway, would be another student's."""
    falling = np.array(sorted(scores, reverse=True))
    half = np.random.default_rng(len(scores)).standard_normal((HALF_THE_DRAWS, len(scores)))
    teachers = falling + 0.1 * np.concatenate([half, -half])
    same = [loss(teacher, range(len(scores)), k=k) <= epsilon + 1e-6 for teacher in teachers]
    assert confidence(np.array(scores), 0.1, Tolerance(k=k, epsilon=epsilon)) == pytest.approx(np.mean(same), abs=1e-9)


@pytest.mark.parametrize("documents", range(2, 8))
def test_how_sure_it_is_of_equal_scores_does_not_depend_on_which_was_offered_first(documents: int) -> None:
    scores, sigmas = np.full(documents, 0.5), np.linspace(0.01, 0.4, documents)
    turned = slice(None, None, -1)
    for k in range(1, documents):
        tolerance = Tolerance(k=k, epsilon=0.05)
        assert confidence(scores, sigmas, tolerance) == confidence(scores[turned], sigmas[turned], tolerance)


def test_a_ranking_is_as_sure_as_the_documents_that_it_holds_are_known(ranker: Ranker) -> None:
    (matched,) = ranker.base.match([RankInput(query="boil water", documents=DOCUMENTS)])
    found = ranker.rank_from(matched, None)
    assert found.confidence == confidence(found.scores, ranker.head.sigmas(KEYS), ranker.tolerance)
    assert found.confidence < confidence(found.scores, ranker.head.sigma, ranker.tolerance)


@pytest.mark.parametrize("distances", [(0.0, 0.5), (0.7, 0.2, 0.9), (1.4, 1.1), (1.0,)])
def test_a_query_is_as_novel_as_its_nearest_reference_is_far(ranker: Ranker, distances: tuple[float, ...]) -> None:
    (matched,) = ranker.base.match([RankInput(query="boil water", documents=DOCUMENTS)])
    asked = np.zeros(ranker.encoder.hidden_size, np.float32)
    asked[0] = 1.0
    reference = np.zeros((len(distances), len(asked)), np.float32)
    for row, distance in enumerate(distances):
        reference[row, 0], reference[row, 1] = 1.0 - distance, np.sqrt(1.0 - (1.0 - distance) ** 2)
    found = replace(ranker, reference=reference).rank_from(replace(matched, query=asked), None)
    assert found.novelty == pytest.approx(min(distances), abs=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_two_members_are_mixed_by_the_share_of_the_fine_tuned_one(ranker: Ranker, share: float) -> None:
    tuned = TunedRanker.on(ranker.encoder, {}, slope=2.0)
    both = replace(ranker, tuned=tuned, tuned_share=share)
    (matched,) = ranker.base.match([RankInput(query="boil water", documents=DOCUMENTS)])
    cosines = np.array([0.9, 0.1, 0.2, 0.3, 0.4], np.float32)
    found = both.rank_from(matched, cosines)
    fast = ranker.head.scores(matched)
    slow = 2.0 * cosines + np.array([0, 0, 0.5, 0, 0])
    assert found.members[0] == pytest.approx(fast - fast.mean(), abs=1e-5)
    assert found.members[1] == pytest.approx(slow - slow.mean(), abs=1e-5)
    assert found.scores == pytest.approx((1 - share) * found.members[0] + share * found.members[1], abs=1e-5)
    assert list(found.order) == sorted(range(5), key=lambda place: -found.scores[place])


def test_a_score_that_is_no_number_is_a_broken_student(ranker: Ranker) -> None:
    broken = replace(ranker, head=replace(ranker.head, slope=float("nan")))
    with pytest.raises(ValueError, match="no number"):
        broken.look([RankInput(query="boil water", documents=DOCUMENTS)])


@pytest.mark.parametrize(("made_in", "tolerance"), [("fp32", 0.05), ("bf16", 0.1), (None, 0.1)])
def test_golden_scores_may_deviate_by_a_twentieth_of_their_range_and_twice_that_in_another_precision(
    ranker: Ranker, made_in: Literal["fp32", "bf16"] | None, tolerance: float
) -> None:
    assert replace(ranker, made_in=made_in).golden_tolerance == tolerance


@pytest.mark.parametrize("share", [0.02, 0.2])
def test_the_deviation_from_golden_scores_is_a_share_of_their_range(golden: Ranker, share: float) -> None:
    assert golden.check_golden() <= 1e-5
    (first, *others) = golden.golden
    spread = float(np.ptp(first.scores))
    assert spread > 1e-2
    assert abs(spread - 1.0) > 0.1  # a share of it is not the thing itself
    middle = int(np.argsort(first.scores)[len(first.scores) // 2])
    moved = [score + (share * spread if place == middle else 0.0) for place, score in enumerate(first.scores)]
    told = RankGolden(query=first.query, documents=first.documents, scores=moved)
    off = share * (1 - 1 / len(moved))  # the mean moves with it: only differences mean anything
    assert replace(golden, golden=(told, *others)).check_golden() == pytest.approx(off, abs=1e-3)
    raised = RankGolden(query=first.query, documents=first.documents, scores=[score + 7.0 for score in first.scores])
    assert replace(golden, golden=(raised, *others)).check_golden() <= 1e-3


def test_golden_lists_are_asked_in_either_order(golden: Ranker, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [
        RankGolden(query=one.query, documents=one.documents, scores=[*map(float, range(len(one.documents)))])
        for one in golden.golden
    ]
    monkeypatch.setattr(Ranker, "_fresh_scores", lambda _, __, documents: [*map(float, range(len(documents)))])
    assert replace(golden, golden=tuple(places)).check_golden() == pytest.approx(1.0)


def test_golden_scores_come_out_of_no_cache(golden: Ranker) -> None:
    cache = VectorCache(golden.encoder)
    texts = [document for one in golden.golden for document in one.documents]
    wrong: FloatArray = np.zeros((len(texts), golden.encoder.hidden_size), np.float32)
    wrong[:, 0] = np.linspace(-1, 1, len(texts))
    cache.prime([document_key(text) for text in texts], wrong)
    assert replace(golden, base=BiEncoderBase(vectors=cache)).check_golden() <= 1e-5


@pytest.mark.parametrize("place", [1, 2])
def test_a_sigma_below_nothing_is_refused(ranker: Ranker, place: int) -> None:
    scale = [1.0, 0.1, 0.1]
    scale[place] = -0.1
    with pytest.raises(CorruptVersionError, match="below 0"):
        RankHead.of(
            {**ranker.head.tensors(), "scale": torch.tensor(scale, dtype=torch.float64)},
            features=2 * ranker.encoder.hidden_size,
        )


def test_a_cache_belongs_to_one_encoder(encoder: Encoder) -> None:
    class Another:
        hidden_size, device, fingerprint = encoder.hidden_size, encoder.device, "another"

    other: Encoder = Another()  # type: ignore[assignment]
    cache = shared_vectors(encoder)
    assert shared_vectors(encoder) is cache
    assert shared_vectors(other) is not cache


def test_what_is_kept_is_a_copy_and_no_view_of_a_batch(encoder: Encoder) -> None:
    cache = VectorCache(encoder)
    batch: NDArray[np.float32] = sentence_vectors(encoder, ["a", "b"])
    cache.prime([document_key("a"), document_key("b")], batch)
    kept: Sequence[FloatArray] = list(cache._kept.values())
    assert not any(np.shares_memory(one, batch) or one.base is not None for one in kept)


@pytest.mark.parametrize("room", [1, 2, 7])
def test_a_cache_holds_no_more_than_its_bytes(encoder: Encoder, room: int) -> None:
    each = 4 * encoder.hidden_size + _OVERHEAD_BYTES
    cache, keys = VectorCache(encoder, max_bytes=(room + 1) * each - 1), list[str]()
    for number in range(3):
        keys = [document_key(f"{number}/{one}") for one in range(5)]
        cache.prime(keys, np.zeros((5, encoder.hidden_size), np.float32))
    assert (cache.most, len(cache)) == (room, room)
    assert list(cache._kept)[-1] == keys[-1]
