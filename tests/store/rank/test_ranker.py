"""The ranking student: head, vectors, confidence."""

import gc
import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from store.errors import CorruptVersionError
from store.event import RankInput
from store.student.encoder import Encoder, FloatArray
from store.student.rank.bases import BiEncoderBase, pair_features, rows_dot
from store.student.rank.head import RankHead, confidence
from store.student.rank.ranker import Ranker, Ranking
from store.student.rank.vectors import VectorCache, sentence_vectors, shared_vectors
from store.tasks.rank import Tolerance, agree, document_key
from tests.tiny import tiny_encoder

DOCUMENTS = ("a red kettle", "a blue tent with four poles", "running shoes", "an oak shelf", "a kettle")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder.load(tiny_encoder(tmp_path_factory.mktemp("encoder")), device="cpu", precision="fp32", max_tokens=64)


def head_of(encoder: Encoder, items: dict[str, float] | None = None, sigma: float = 0.1) -> RankHead:
    rng = np.random.default_rng(0)
    weight = rng.normal(0.0, 0.1, 2 * encoder.hidden_size).astype(np.float32)
    return RankHead(slope=0.9, sigma=sigma, weight=weight, items=items or {})


def ranker_of(encoder: Encoder, head: RankHead) -> Ranker:
    return Ranker(
        base=BiEncoderBase(vectors=VectorCache(encoder)),
        head=head,
        reference=sentence_vectors(encoder, ["boil water", "sleep outside"]),
        tolerance=Tolerance(),
    )


def a_list(query: str, documents: Sequence[str]) -> RankInput:
    return RankInput(query=query, documents=list(documents))


def ranked(ranker: Ranker, query: str, documents: Sequence[str]) -> Ranking:
    (found,) = ranker.rankings([a_list(query, documents)])
    return found


def test_scores_are_slope_correction_and_bias(encoder: Encoder) -> None:
    head = head_of(encoder, {document_key(DOCUMENTS[2]): 0.5})
    found = ranked(ranker_of(encoder, head), "for the marathon", DOCUMENTS)
    query = sentence_vectors(encoder, ["for the marathon"])[0]
    for place, text in enumerate(DOCUMENTS):
        document = sentence_vectors(encoder, [text])[0]
        by_hand = 0.9 * float(query @ document) + (0.5 if place == 2 else 0.0)
        by_hand += float(np.concatenate([query * document, np.abs(query - document)]) @ head.weight)
        assert found.scores[place] == pytest.approx(by_hand, abs=1e-5)
    assert list(found.order) == sorted(range(5), key=lambda place: -found.scores[place])


def test_documents_in_another_order_have_the_same_scores_to_the_last_bit(encoder: Encoder) -> None:
    ranker = ranker_of(encoder, head_of(encoder))
    plain = ranked(ranker, "boil water", DOCUMENTS)
    for seed in range(5):
        shuffle = np.random.default_rng(seed).permutation(5)
        moved = ranked(ranker_of(encoder, ranker.head), "boil water", [DOCUMENTS[place] for place in shuffle])
        assert np.array_equal(moved.scores, plain.scores[shuffle])
        assert list(shuffle[moved.order]) == list(plain.order)
        assert moved.confidence == plain.confidence
    assert plain.novelty == pytest.approx(0.0, abs=1e-6)
    assert ranked(ranker, "quite something else", DOCUMENTS).novelty > 1e-3


def test_a_head_comes_back_from_its_tensors(encoder: Encoder) -> None:
    head = head_of(encoder, {document_key(text): place / 4 for place, text in enumerate(DOCUMENTS)})
    again = RankHead.of(head.tensors(), features=2 * encoder.hidden_size)
    assert (again.slope, again.sigma, dict(again.items)) == (0.9, 0.1, dict(head.items))
    assert np.array_equal(again.weight, head.weight)
    empty = RankHead.of(head_of(encoder).tensors(), features=2 * encoder.hidden_size)
    assert empty.items == {}


@pytest.mark.parametrize("name", ["scale", "weight", "item_keys", "item_biases"])
def test_tensors_that_do_not_fit_are_refused(encoder: Encoder, name: str) -> None:
    tensors = head_of(encoder, {document_key("a"): 1.0}).tensors()
    short = dict(tensors)
    short[name] = tensors[name][:0]
    lacking = {other: value for other, value in tensors.items() if other != name}
    for broken in (short, lacking, {**tensors, "more": torch.zeros(1)}):
        with pytest.raises(CorruptVersionError, match="ranking head"):
            RankHead.of(broken, features=2 * encoder.hidden_size)
    with pytest.raises(CorruptVersionError, match="sigma"):
        RankHead.of({**tensors, "scale": torch.tensor([1.0, -0.1, 0.1])}, features=2 * encoder.hidden_size)


@settings(max_examples=20)
@given(
    scores=st.lists(st.integers(-10, 10).map(lambda n: n / 10), min_size=1, max_size=6),
    sigma=st.sampled_from([0.02, 0.1, 0.5]),
    k=st.integers(1, 3),
    epsilon=st.sampled_from([0.0, 0.05, 0.3]),
)
def test_confidence_is_the_share_of_noisy_teachers_who_agree(
    scores: list[float], sigma: float, k: int, epsilon: float
) -> None:
    falling = np.array(sorted(scores, reverse=True))
    tolerance = Tolerance(k=k, epsilon=epsilon)
    rng = np.random.default_rng(1)
    drawn = falling + rng.normal(0.0, sigma, (500, len(falling)))
    wanted = np.mean([agree(teacher, np.arange(len(falling)), tolerance) for teacher in drawn])
    found = confidence(np.array(scores), sigma, tolerance)
    assert found == pytest.approx(wanted, abs=0.2)  # 100 draws: sd .05


def test_confidence_grows_with_the_margin_and_is_1_without_doubt() -> None:
    margins = [confidence(np.array([margin, 0.0, 0.0]), 0.1, Tolerance()) for margin in (0.0, 0.1, 0.2, 0.4)]
    assert margins == sorted(margins)
    assert margins[0] < 0.7 < margins[-1]
    assert confidence(np.array([0.1, 0.0]), 0.0, Tolerance(epsilon=0.0)) == 1.0
    assert confidence(np.array([0.3]), 5.0, Tolerance()) == 1.0


class CountingEncoder:
    """Counts the texts that are computed."""

    def __init__(self, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
        self.texts: list[str] = []

        def counted(encoder: Encoder, texts: Sequence[str]) -> FloatArray:
            self.texts += texts
            return sentence_vectors(encoder, texts)

        monkeypatch.setattr("store.student.rank.vectors.sentence_vectors", counted)


def test_a_document_is_computed_once_until_it_is_forgotten(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = CountingEncoder(encoder, monkeypatch)
    room = 3 * (4 * encoder.hidden_size + 500)
    cache = VectorCache(encoder, max_bytes=room)
    first, _ = cache.documents(["a", "b", "a", " a "])
    assert sorted(counted.texts) == ["a", "b"] or sorted(counted.texts) == [" a ", "b"]
    assert np.array_equal(first[0], first[2])
    cache.documents(["a", "c"])
    cache.documents(["d"])  # b was used longest ago
    counted.texts.clear()
    again, keys = cache.documents(["a", "c", "d"])
    assert counted.texts == []
    assert np.array_equal(again[0], first[0])
    assert keys == tuple(map(document_key, "acd"))
    cache.documents(["b"])
    assert counted.texts == ["b"]
    assert len(cache) == 3
    assert (cache.hits, cache.misses) == (1 + 3, 5)


def test_each_document_of_a_request_counts_once_as_computed_or_as_found(encoder: Encoder) -> None:
    ranker = ranker_of(encoder, head_of(encoder))
    assert ranker.vectors is not None
    asked = [a_list("for the marathon", DOCUMENTS[:3]), a_list("for the shelf", DOCUMENTS[2:4])]
    ranker.rankings(asked)
    assert (ranker.vectors.hits, ranker.vectors.misses) == (0, 4)
    ranker.rankings(asked[:1])
    assert (ranker.vectors.hits, ranker.vectors.misses) == (3, 4)


def test_a_list_longer_than_the_cache_is_ranked_all_the_same(encoder: Encoder) -> None:
    cache = VectorCache(encoder, max_bytes=1)
    found, _ = cache.documents(["a", "b", "c", "a"])
    assert np.array_equal(found, sentence_vectors(encoder, ["a", "b", "c", "a"]))
    assert len(cache) == 1
    assert cache.documents([])[0].shape == (0, encoder.hidden_size)


def test_threads_share_a_cache(encoder: Encoder) -> None:
    cache = VectorCache(encoder, max_bytes=2 * (4 * encoder.hidden_size + 500))
    wanted = {text: sentence_vectors(encoder, [text])[0] for text in "abcdef"}
    wrong: list[str] = []

    def ask(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(30):
            texts = list(rng.choice(list("abcdef"), 3))
            found, _ = cache.documents(texts)
            wrong.extend(t for t, v in zip(texts, found, strict=True) if not np.array_equal(v, wanted[t]))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(cache) <= 2


def test_pair_features_are_products_and_distances() -> None:
    query, documents = np.array([0.6, 0.8], np.float32), np.array([[1.0, 0.0]], np.float32)
    assert pair_features(query, documents).tolist() == [pytest.approx([0.6, 0.0, 0.4, 0.8])]


@given(documents=st.integers(1, 40), hidden=st.sampled_from((16, 33, 384, 768)), seed=st.integers(0, 1000))
def test_a_product_by_row_does_not_depend_on_where_the_row_stands(documents: int, hidden: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, vector = (rng.normal(size=size).astype(np.float32) for size in ((documents, hidden), hidden))
    turn = rng.permutation(documents)
    assert np.array_equal(rows_dot(rows, vector)[turn], rows_dot(rows[turn], vector))
    assert rows_dot(rows, vector) == pytest.approx(rows @ vector, abs=1e-4)


def test_too_long_is_told_of_the_query_and_of_each_document(encoder: Encoder) -> None:
    ranker = ranker_of(encoder, head_of(encoder))
    long = "word " * 600
    assert not ranker.too_long(a_list("boil water", DOCUMENTS))
    assert ranker.too_long(a_list(long, DOCUMENTS))
    assert ranker.too_long(a_list("boil water", [*DOCUMENTS, long]))


def test_a_document_is_measured_once_and_a_primed_one_too(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    ranker, long, measured = ranker_of(encoder, head_of(encoder)), "word " * 600, list[str]()
    whole = Encoder.too_long

    def counted(encoder: Encoder, text: str) -> bool:
        measured.append(text)
        return whole(encoder, text)

    monkeypatch.setattr(Encoder, "too_long", counted)
    assert ranker.vectors is not None
    ranker.vectors.prime([document_key("a")], sentence_vectors(encoder, ["a"]))
    for documents in (["a", *DOCUMENTS], [*DOCUMENTS, "a"]):
        assert not ranker.too_long(a_list("boil water", documents))
    assert measured == ["boil water", "a", *DOCUMENTS, "boil water"]
    assert [ranker.too_long(a_list("boil water", [*DOCUMENTS, long])) for _ in range(2)] == [True, True]
    assert measured.count(long) == 1


def test_what_is_remembered_of_lengths_is_bounded(encoder: Encoder) -> None:
    cache = VectorCache(encoder, max_bytes=1)
    for text in (*DOCUMENTS, "word " * 600, *DOCUMENTS):
        assert cache.too_long([text]) == (text not in DOCUMENTS)
        assert len(cache._long) == 1


@given(words=st.lists(st.integers(1, 70), min_size=1, max_size=20))
@settings(max_examples=30, deadline=None)
def test_a_vector_is_a_function_of_its_text_alone_whatever_comes_with_it(encoder: Encoder, words: list[int]) -> None:
    """To the last bit; 14 words fill a batch's shape, 62 are all that the encoder reads."""
    texts = [f"{'kettle ' * count}{place}" for place, count in enumerate([14, *words, 13, 62, 62, 62, 62, 62, 62, 62])]
    together = sentence_vectors(encoder, texts)
    for place in (0, 1, len(words) + 1, len(texts) - 1):
        assert np.array_equal(sentence_vectors(encoder, [texts[place]])[0], together[place])


def test_documents_that_are_known_cost_no_tokens(encoder: Encoder) -> None:
    ranker, long = ranker_of(encoder, head_of(encoder)), ["word " * 40, "another " * 40]
    before = ranker.tokens(a_list("boil water", long))
    ranked(ranker, "boil water", long[:1])
    assert 0 < ranker.tokens(a_list("boil water", long)) < before
    ranked(ranker, "boil water", long)
    assert ranker.tokens(a_list("boil water", long)) == encoder.about_tokens("boil water")


def test_primed_documents_are_not_computed_and_what_is_no_vector_is_refused(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = sentence_vectors(encoder, ["a", "b"])
    counted, cache = CountingEncoder(encoder, monkeypatch), VectorCache(encoder)
    cache.prime([document_key("a"), document_key("b")], vectors)
    assert np.array_equal(cache.documents(["b", "a"])[0], vectors[::-1])
    assert counted.texts == []
    with pytest.raises(ValueError, match="1 documents"):
        cache.prime(["c"], vectors)
    with pytest.raises(ValueError, match="finite"):
        cache.prime(["c", "d"], np.full_like(vectors, np.nan))


def test_versions_on_one_base_share_their_documents_for_as_long_as_one_is_held(encoder: Encoder) -> None:
    first = shared_vectors(encoder)
    assert shared_vectors(encoder) is first
    first.documents(["a"])
    del first
    gc.collect()
    assert len(shared_vectors(encoder)) == 0


def test_a_document_that_is_new_where_others_are_known_makes_the_student_less_sure(encoder: Encoder) -> None:
    head = replace(head_of(encoder, {"a": 0.3, "b": 0.0}), new_sigma=0.5)
    assert head.sigmas(("a", "b", "c")).tolist() == pytest.approx([0.1, 0.1, 0.5])
    assert head_of(encoder).sigmas(("a", "c")).tolist() == pytest.approx([0.1, 0.1])
    scores = np.array([0.5, 0.0, 0.1])
    known = confidence(scores, head.sigmas(("a", "b", "b")), Tolerance())
    assert confidence(scores, head.sigmas(("a", "b", "c")), Tolerance()) < known - 0.1
    again = confidence(scores[[2, 0, 1]], head.sigmas(("c", "a", "b")), Tolerance())
    assert again == confidence(scores, head.sigmas(("a", "b", "c")), Tolerance())
