"""Points around one centre a label."""

import numpy as np

from store.student.encoder import FloatArray

FEATURES = 12


def clouds(n: int, labels: int, seed: int, spread: float = 1.0) -> tuple[FloatArray, FloatArray]:
    """Features [n, FEATURES], and one-hot targets; every label has a row."""
    rng = np.random.default_rng(seed)
    y = rng.integers(labels, size=n)
    y[:labels] = np.arange(labels)
    centres = rng.normal(size=(labels, FEATURES))
    features = centres[y] + spread * rng.normal(size=(n, FEATURES))
    return features.astype(np.float32), np.eye(labels, dtype=np.float32)[y]


def ones(n: int) -> FloatArray:
    return np.ones(n, dtype=np.float32)
