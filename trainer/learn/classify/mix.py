"""What the fine-tuned member weighs in the pool: chosen on earlier opinions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from store.buffer.item import FirstOpinion
from store.student.tuned import SMALLEST_PROBABILITY

_PRIOR_SD: Final = 0.1  # of the share about its default
_LARGEST_SHARE: Final = 0.5  # opinions are of earlier heads: the present one has learned from those answers since
_NEWEST: Final = 200  # opinions that are looked at
_ABSENT: Final = -1e9  # log-probability of a label that a version did not have
_TWO: Final = 2


class Answered(Protocol):
    """What is asked of a row."""

    @property
    def label(self) -> str:
        """The teacher's answer."""

    @property
    def first_opinion(self) -> FirstOpinion | None:
        """What a student said before it saw the label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """What the fine-tuned member weighs."""

    share: float  # the head has the rest
    opinions: int  # that it was chosen by


DEFAULT_MIX: Final = Mix(share=1 / 3, opinions=0)  # fine-tuning leaves a member twice as sure as it should be


def choose_mix(rows: Sequence[Answered], label_maps: Mapping[str, Sequence[str]]) -> Mix:
    """The most likely share, given the newest opinions from before the label was seen and a prior about the default.

    A conditional logit of the answers on what the members' log-probabilities differ by (McFadden 1974): it has one
    optimum. Where the members agree, right or wrong, they say nothing of it. The head keeps at least half.

    Args:
        rows: with their opinions, in any order.
        label_maps: labels of earlier versions by version id, to read their opinions with.
    """
    found = []
    for row in rows:
        first = row.first_opinion
        labels = label_maps.get(first.opinion.version, ()) if first is not None else ()
        if first is None or len(first.opinion.members) != _TWO or row.label not in labels:
            continue
        if all(len(member) == len(labels) for member in first.opinion.members):
            found.append((first.time_s, first.event_id, first.opinion.members, labels.index(row.label)))
    newest = sorted(found)[-_NEWEST:]
    if not newest:
        return DEFAULT_MIX
    head, tuned = _logprobs([members for _, _, members, _ in newest])
    answers = np.arange(len(newest)), np.array([place for *_, place in newest])

    def loss(share: float) -> float:
        pooled = (1.0 - share) * head + share * tuned
        pull = (share - DEFAULT_MIX.share) / _PRIOR_SD
        return float((logsumexp(pooled, axis=1) - pooled[answers]).sum() + pull**2 / 2.0)

    share = minimize_scalar(loss, bounds=(0.0, _LARGEST_SHARE), method="bounded").x
    return Mix(share=float(share), opinions=len(newest))


def _logprobs(opinions: Sequence[Sequence[Sequence[float]]]) -> npt.NDArray[np.float64]:
    """What the members said: [2, n, labels]; next to nothing of labels that the version did not have."""
    result = np.full((_TWO, len(opinions), max(len(members[0]) for members in opinions)), _ABSENT)
    for i, members in enumerate(opinions):
        result[:, i, : len(members[0])] = np.log(np.maximum(members, SMALLEST_PROBABILITY))
    return result
