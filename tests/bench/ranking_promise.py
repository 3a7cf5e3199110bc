"""A promise over many streams of lists, kept or not by a known truth: what the teacher says to all other lists.

Each stream is some of the lists, drawn without replacement, replayed with a promise: the service's own gateway, budget,
buffer, trainer and gate, the head alone, one cycle. A version misses its promise where its answers to the lists outside
the stream agree less often than was certified.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

import numpy as np
from scipy import stats

from ops.backtest.records import Ask
from ops.backtest.replay import DEFAULT_CYCLE, DEFAULT_SCHEDULE, Replay
from store.event import RankInput
from store.student.rank.bases import Matched
from store.student.rank.vectors import shared_vectors
from store.tasks.rank import heard
from tests.bench.variants import NEVER
from trainer.attempt import Attempt
from trainer.learn.rank.recipe import ranker

TARGET: Final = 0.9
CONFIDENCE: Final = 0.95
_ROWS: Final = 400
_CYCLE_AT: Final = 300
_CALIBRATE_RATIO: Final = 0.5
_TRUTH: Final = 1_500  # lists outside the stream


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One stream, replayed once."""

    certified: bool
    coverage: float  # that was certified
    answered: float  # share of the lists outside the stream
    agreement: float  # of those answers, by the teacher's own; NaN: there are none
    kept: float | None  # of the student's own answers within the stream; None: there are none


def measure(replay: Replay, seed: int) -> Stream:
    """Replay one stream and ask its version about the lists that are left."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(replay.log.rows)
    places, others = order[:_ROWS], order[_ROWS : _ROWS + _TRUTH]
    stream = replay.sub(places.tolist())
    split = replace(DEFAULT_CYCLE.split, salt=f"stream {seed}", calibrate_ratio=_CALIBRATE_RATIO)
    stream.cycle = replace(DEFAULT_CYCLE, encoder=replay.cycle.encoder, split=split)
    stream.schedule = replace(DEFAULT_SCHEDULE, min_new_labels=_CYCLE_AT, every_s=NEVER)
    made: list[Attempt] = []
    ask = Ask(budget=_ROWS, seed=seed, target=TARGET, confidence=CONFIDENCE, audit_ratio=0.05, fine_tune=False)
    run, _ = stream.run(ask, lambda _done, _rows: None, lambda _row, one: made.append(one))
    if not made or made[0].policy.threshold is None:
        return Stream(certified=False, coverage=0.0, answered=0.0, agreement=float("nan"), kept=None)
    policy = made[0].policy
    student = ranker(made[0].draft.student(policy))
    values = [cast("RankInput", replay.log.values[place]) for place in others]
    vectors = shared_vectors(replay.base.encoder)
    vectors.documents(sorted({text for one in values for text in one.documents}))
    answered, right = 0, 0.0
    for place, value in zip(others, values, strict=True):
        found = Matched.of_vectors(replay.features[place], *vectors.documents(value.documents))
        said = student.rank_from(found, None)
        if said.confidence < (policy.threshold or 0.0) or said.novelty > (policy.novelty_threshold or np.inf):
            continue
        answered += 1
        (teacher,) = heard([replay.log.labels[place] or ""])
        right += teacher.agrees(said.order.tolist(), student.tolerance)
    return Stream(
        certified=True,
        coverage=policy.coverage_ratio,
        answered=answered / len(others),
        agreement=right / answered if answered else float("nan"),
        kept=run.answered_agreement,
    )


def summary(found: Sequence[Stream]) -> dict[str, Any]:
    """What the streams came to; a promise that is never made is not kept by that."""
    certified = [one for one in found if one.certified]
    missed = sum(one.agreement < TARGET for one in certified)
    kept = [one.kept for one in certified if one.kept is not None]
    return {
        "streams": len(found),
        "target": TARGET,
        "confidence": CONFIDENCE,
        "certified": len(certified),
        "missed": missed,
        "missed_allowed": int(stats.binom.ppf(0.95, len(found), 1 - CONFIDENCE)),
        "missed_within_streams": sum(one < TARGET for one in kept),
        "coverage": _mean([one.coverage for one in certified]),
        "answered": _mean([one.answered for one in certified]),
        "agreement": _mean([one.agreement for one in certified]),
        "agreement_lowest": min((round(one.agreement, 4) for one in certified), default=None),
    }


def _mean(values: Sequence[float]) -> float | None:
    return round(float(np.nanmean(values)), 4) if len(values) else None
