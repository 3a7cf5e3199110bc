"""The probe is the convex optimum that it claims to be."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from tests.trainer.clouds import clouds
from trainer.learn.classify.probe import probe


@pytest.mark.parametrize("c", [0.1, 1.0, 10.0])
def test_a_probe_is_scikit_learns_logistic_regression(c: float) -> None:
    features, targets = clouds(120, 3, seed=1, spread=2.0)
    weights = np.random.default_rng(2).uniform(0.5, 2.0, size=120).astype(np.float32)
    oracle = LogisticRegression(C=c, max_iter=2000, tol=1e-8)
    oracle.fit(features, targets.argmax(axis=1), sample_weight=weights / weights.mean())
    found = probe(features, targets, weights, c=c)
    probs = torch.softmax(torch.from_numpy(features) @ found.weight.T + found.bias, dim=-1).numpy()
    np.testing.assert_allclose(probs, oracle.predict_proba(features), atol=5e-3)
