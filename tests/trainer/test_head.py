"""The head is the closed form that it claims to be."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from store.student.encoder import FloatArray
from tests.trainer.clouds import FEATURES, clouds, ones
from trainer.learn.classify.head import choose_scale, fit_head


def test_discriminants_are_scikit_learns_with_the_same_covariance() -> None:
    features, targets = clouds(200, 4, seed=3, spread=2.0)
    head = fit_head(features, targets, weights=ones(200), scale=0.5)
    oracle = LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=_Shrunk())
    oracle.fit(features, targets.argmax(axis=1))
    logits = features @ head.weight.numpy().T + head.bias.numpy()
    expected = 0.5 * oracle.decision_function(features)
    np.testing.assert_allclose(logits - logits[:, :1], expected - expected[:, :1], atol=1e-2)


class _Shrunk:
    """The within-class covariance, shrunk by .6; scikit-learn hands over one class at a time."""

    def fit(self, rows: FloatArray) -> "_Shrunk":
        centred = rows - rows.mean(axis=0)
        covariance = centred.T @ centred / len(rows)
        self.covariance_ = 0.4 * covariance + 0.6 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        return self


@given(seed=st.integers(0, 10_000), labels=st.integers(2, 4))
@settings(max_examples=5, deadline=None)
def test_a_weight_of_two_is_the_row_twice(seed: int, labels: int) -> None:
    features, targets = clouds(40, labels, seed)
    weights = ones(40)
    weights[::3] = 2.0
    twice = [*range(40), *range(0, 40, 3)]
    weighed = fit_head(features, targets, weights=weights, scale=0.5)
    repeated = fit_head(features[twice], targets[twice], weights=ones(len(twice)), scale=0.5)
    np.testing.assert_allclose(weighed.weight, repeated.weight, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(weighed.probs(features), repeated.probs(features), atol=5e-3)


def test_a_soft_target_is_rows_of_its_answers_with_their_shares() -> None:
    features, targets = clouds(60, 3, seed=5)
    soft = targets.copy()
    soft[0] = [0.75, 0.25, 0.0]
    doubled = np.concatenate([features, features[:1]])
    hard = np.concatenate([targets, [[0.0, 1.0, 0.0]]]).astype(np.float32)
    hard[0] = [1.0, 0.0, 0.0]
    shares = np.concatenate([[0.75], np.ones(59), [0.25]]).astype(np.float32)
    one = fit_head(features, soft, weights=ones(60), scale=0.5)
    other = fit_head(doubled, hard, weights=shares, scale=0.5)
    np.testing.assert_allclose(one.probs(features), other.probs(features), atol=5e-3)


def test_a_label_without_rows_keeps_its_place_and_is_never_chosen() -> None:
    features, targets = clouds(60, 2, seed=7)
    wide = np.insert(targets, 1, 0.0, axis=1)
    head = fit_head(features, wide, weights=ones(60), scale=0.5)
    probs = head.probs(features)
    assert probs.shape == (60, 3)
    assert probs[:, 1].max() < 1e-4
    far = 100.0 * np.random.default_rng(8).normal(size=(50, FEATURES)).astype(np.float32)
    assert head.probs(far)[:, 1].max() < 1e-4
    narrow = fit_head(features, targets, weights=ones(60), scale=0.5)
    np.testing.assert_allclose(probs[:, [0, 2]], narrow.probs(features), atol=1e-4)


def test_with_few_rows_a_label_a_head_is_less_sure() -> None:
    rng = np.random.default_rng(9)
    centres = rng.normal(size=(8, 300))
    answers = rng.integers(8, size=3000)
    features = (centres[answers] + 4.0 * rng.normal(size=(3000, 300))).astype(np.float32)
    targets = np.eye(8, dtype=np.float32)[answers]
    few, rest = slice(0, 80), slice(80, None)

    def loss(scale: float) -> float:
        probs = fit_head(features[few], targets[few], weights=ones(80), scale=scale).probs(features[rest])
        return float(-np.log(np.clip(probs[targets[rest] > 0], 1e-12, 1.0)).mean())

    chosen = choose_scale(features[few], targets[few], weights=ones(80))
    assert loss(chosen) < 0.8 * loss(1.0)
    assert loss(chosen) < 1.2 * min(map(loss, (0.5, 0.25, 0.125, 0.0625)))


def test_nothing_to_tell_by_leaves_the_scale_at_one() -> None:
    features, targets = clouds(2, 2, seed=11)
    assert choose_scale(features, targets, weights=ones(2)) == 1.0


def test_the_same_rows_give_the_same_head() -> None:
    features, targets = clouds(100, 3, seed=10)
    one, other = (fit_head(features, targets, weights=ones(100), scale=1.0) for _ in range(2))
    assert torch.equal(one.weight, other.weight)
    assert torch.equal(one.bias, other.bias)
