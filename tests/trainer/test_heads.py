"""The heads are the convex optimum and the closed form that they claim to be."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

from store.student.encoder import FloatArray
from trainer.learn.heads import INVERSE_PENALTIES, choose_c, fit_heads, fit_logistic, out_of_fold

HIDDEN = 6


def clouds(n: int, labels: int, seed: int, spread: float = 1.0) -> tuple[FloatArray, FloatArray]:
    """Features [n, 4 * HIDDEN] around one centre a label, and one-hot targets."""
    rng = np.random.default_rng(seed)
    y = rng.integers(labels, size=n)
    y[:labels] = np.arange(labels)
    centres = rng.normal(size=(labels, 4 * HIDDEN))
    features = centres[y] + spread * rng.normal(size=(n, 4 * HIDDEN))
    return features.astype(np.float32), np.eye(labels, dtype=np.float32)[y]


def ones(n: int) -> FloatArray:
    return np.ones(n, dtype=np.float32)


@pytest.mark.parametrize("c", [0.1, 1.0, 10.0])
def test_logistic_regression_is_scikit_learns(c: float) -> None:
    features, targets = clouds(120, 3, seed=1, spread=2.0)
    weights = np.random.default_rng(2).uniform(0.5, 2.0, size=120).astype(np.float32)
    oracle = LogisticRegression(C=c, max_iter=2000, tol=1e-8)
    oracle.fit(features, targets.argmax(axis=1), sample_weight=weights)
    weight, bias = fit_logistic(*map(torch.from_numpy, (features, targets, weights)), c=c)
    found = torch.softmax(torch.from_numpy(features) @ weight.T + bias, dim=-1).numpy()
    np.testing.assert_allclose(found, oracle.predict_proba(features), atol=5e-3)


def test_discriminants_are_scikit_learns_with_the_same_covariance() -> None:
    features, targets = clouds(200, 4, seed=3, spread=2.0)
    heads = fit_heads(features, targets, weights=ones(200), hidden_size=HIDDEN, c=1.0, warm=None)
    last, y = features[:, -2 * HIDDEN :], targets.argmax(axis=1)
    oracle = LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=_Shrunk())
    oracle.fit(last, y)
    logits = last @ heads.lda_weight.numpy().T + heads.lda_bias.numpy()
    expected = 0.5 * oracle.decision_function(last)
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
    weighed = fit_heads(features, targets, weights=weights, hidden_size=HIDDEN, c=1.0 * 40 / len(twice), warm=None)
    repeated = fit_heads(
        features[twice],
        targets[twice],
        weights=ones(len(twice)),
        hidden_size=HIDDEN,
        c=1.0 * 40 / len(twice) * 40 / len(twice),
        warm=None,
    )
    np.testing.assert_allclose(weighed.lda_weight, repeated.lda_weight, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(weighed.probs(features), repeated.probs(features), atol=5e-3)


def test_a_soft_target_is_rows_of_its_answers_with_their_shares() -> None:
    features, targets = clouds(60, 3, seed=5)
    soft = targets.copy()
    soft[0] = [0.75, 0.25, 0.0]
    doubled = np.concatenate([features, features[:1]])
    hard = np.concatenate([targets, [[0.0, 1.0, 0.0]]]).astype(np.float32)
    hard[0] = [1.0, 0.0, 0.0]
    shares = np.concatenate([[0.75], np.ones(59), [0.25]]).astype(np.float32)
    one = fit_heads(features, soft, weights=ones(60), hidden_size=HIDDEN, c=1.0, warm=None)
    other = fit_heads(doubled, hard, weights=shares, hidden_size=HIDDEN, c=60 / 61, warm=None)
    np.testing.assert_allclose(one.probs(features), other.probs(features), atol=5e-3)


def test_a_warm_start_changes_the_way_and_not_the_end() -> None:
    features, targets = clouds(100, 3, seed=6)
    cold = fit_heads(features, targets, weights=ones(100), hidden_size=HIDDEN, c=1.0, warm=None)
    early = fit_heads(features[:50, :], targets[:50, :2], weights=ones(50), hidden_size=HIDDEN, c=30.0, warm=None)
    warm = fit_heads(features, targets, weights=ones(100), hidden_size=HIDDEN, c=1.0, warm=early)
    np.testing.assert_allclose(warm.probs(features), cold.probs(features), atol=5e-3)


def test_a_label_without_rows_keeps_its_place_and_is_never_chosen() -> None:
    features, targets = clouds(60, 2, seed=7)
    wide = np.insert(targets, 1, 0.0, axis=1)
    heads = fit_heads(features, wide, weights=ones(60), hidden_size=HIDDEN, c=1.0, warm=None)
    probs = heads.probs(features)
    assert probs.shape == (60, 3)
    assert probs[:, 1].max() < 1e-4
    narrow = fit_heads(features, targets, weights=ones(60), hidden_size=HIDDEN, c=1.0, warm=None)
    np.testing.assert_allclose(probs[:, [0, 2]], narrow.probs(features), atol=1e-4)


def test_out_of_fold_probabilities_have_not_seen_their_row() -> None:
    rng = np.random.default_rng(8)
    features = rng.normal(size=(150, 4 * HIDDEN)).astype(np.float32)
    targets = np.eye(2, dtype=np.float32)[rng.integers(2, size=150)]  # nothing to learn
    probs = out_of_fold(features, targets, weights=ones(150), hidden_size=HIDDEN, c=100.0, seed=0)
    seen = fit_heads(features, targets, weights=ones(150), hidden_size=HIDDEN, c=100.0, warm=None).probs(features)
    right = targets.argmax(axis=1)
    assert (probs.argmax(axis=1) == right).mean() < 0.62
    assert (seen.argmax(axis=1) == right).mean() > 0.62


def test_the_penalty_is_strong_for_noise_and_weak_for_clear_classes() -> None:
    noisy = clouds(60, 3, seed=9, spread=12.0)
    clear = clouds(300, 3, seed=9, spread=0.2)
    clear = (clear[0] * 0.05, clear[1])
    strong, weak = (choose_c(*data, weights=ones(len(data[0])), hidden_size=HIDDEN, seed=0) for data in (noisy, clear))
    assert strong == INVERSE_PENALTIES[0]
    assert weak == INVERSE_PENALTIES[-1]


def test_the_same_rows_give_the_same_heads() -> None:
    features, targets = clouds(100, 3, seed=10)
    one, other = (
        fit_heads(features, targets, weights=ones(100), hidden_size=HIDDEN, c=1.0, warm=None) for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(one.tensors().values(), other.tensors().values(), strict=True))
