"""How well the student's novelty score tells off-topic questions from a lane's own traffic."""

from typing import Final

import numpy as np
from scipy import stats

from ops.backtest.replay import Replay
from ops.demo.traffic.generate import TrafficSettings, generate
from trainer.learn.reference import reference_vectors

_OFF_TOPIC: Final = 400
_KNOWN_RATIO: Final = 0.5


def novelty_auroc(replay: Replay, *, seed: int = 1) -> float:
    """P(an off-topic question is farther from what was learned than one of the lane's own), by Mann and Whitney.

    Half of the log's rows are what was learned, the other half its traffic; off-topic are the support desk's questions
    of the demo. The distance is the student's: 1 - cosine to the nearest reference vector.
    """
    encoder = replay.base.encoder
    own = replay.features[:, -encoder.hidden_size :]
    order = np.random.default_rng(seed).permutation(len(own))
    known, traffic = np.array_split(own[order], [int(_KNOWN_RATIO * len(own))])
    texts = sorted({row.text for row in generate(TrafficSettings(seed=seed, rows=3 * _OFF_TOPIC))})[:_OFF_TOPIC]
    strangers = encoder.features(texts)[:, -encoder.hidden_size :]
    references = reference_vectors(np.ascontiguousarray(known), seed=seed).float().numpy()
    references /= np.linalg.norm(references, axis=1, keepdims=True)
    near, far = (1.0 - (rows @ references.T).max(axis=1) for rows in (traffic, strangers))
    return round(float(stats.mannwhitneyu(far, near).statistic) / (len(far) * len(near)), 4)
