"""What the two members weigh in the pool: chosen on earlier opinions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import logsumexp

from store.buffer.item import FirstOpinion
from store.student.tuned import SMALLEST_PROBABILITY

_PRIOR_SD: Final = 0.2  # of each weight about its default
_NEWEST: Final = 200  # opinions that are looked at
_ABSENT: Final = -1e4  # log-probability of a label that a version did not have
_TWO: Final = 2

Floats = npt.NDArray[np.float64]


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
    """What each member weighs."""

    head: float
    tuned: float  # fine-tuning leaves it surer than it is right: at twice the head's temperature it counts as much
    opinions: int  # that it was chosen by


DEFAULT_MIX: Final = Mix(head=0.5, tuned=0.25, opinions=0)


def choose_mix(rows: Sequence[Answered], label_maps: Mapping[str, Sequence[str]]) -> Mix:
    """The most likely weights, given the newest opinions from before the label was seen and a prior about the default.

    A conditional logit of the answers on the members' log-probabilities (McFadden 1974): it has one optimum. The fewer
    opinions there are, the nearer that is to the default.

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
    return _most_likely([members for _, _, members, _ in newest], np.array([place for *_, place in newest]))


def _most_likely(opinions: Sequence[Sequence[Sequence[float]]], places: npt.NDArray[np.intp]) -> Mix:
    """The weights at the optimum; [n, 2, labels of its version] opinions on n answers at these places."""
    logprobs = np.full((len(opinions), _TWO, max(len(members[0]) for members in opinions)), _ABSENT)
    for row, members in zip(logprobs, opinions, strict=True):
        row[:, : len(members[0])] = np.log(np.maximum(members, SMALLEST_PROBABILITY))
    said = logprobs[np.arange(len(opinions)), :, places].sum(axis=0)
    default = np.array([DEFAULT_MIX.head, DEFAULT_MIX.tuned])

    def loss(weights: Floats) -> tuple[float, Floats]:
        pooled = np.einsum("m,nml->nl", weights, logprobs)
        total = logsumexp(pooled, axis=1)
        pull = (weights - default) / _PRIOR_SD
        slope = np.einsum("nl,nml->m", np.exp(pooled - total[:, None]), logprobs) - said + pull / _PRIOR_SD
        return float(total.sum() - said @ weights + pull @ pull / 2.0), slope

    head, tuned = minimize(loss, default, jac=True, method="L-BFGS-B", bounds=[(0.0, None)] * _TWO).x
    return Mix(head=float(head), tuned=float(tuned), opinions=len(opinions))
