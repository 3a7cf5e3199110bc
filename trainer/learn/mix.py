"""How much the fine-tuned member counts beside the head, and how far it is believed: chosen on earlier opinions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final, Protocol

import numpy as np

from store.buffer.item import FirstOpinion
from store.student.encoder import FloatArray
from store.student.student import tempered

_WEIGHTS: Final = (0.0, 0.33, 0.5, 0.67, 0.8)
_DEFAULT_WEIGHT: Final = 0.5
_WEIGHT_PULL: Final = 0.02  # nats for each unit away from the default
_TEMPERATURES: Final = (1.0, 1.4, 2.0, 2.8, 4.0)
_DEFAULT_TEMPERATURE: Final = 2.0  # what it was taught, it is too sure of (Guo et al. 2017)
_TEMPERATURE_PULL: Final = 0.01  # nats for each doubling
_NEWEST: Final = 200  # opinions that are looked at
_MIN_OPINIONS: Final = 60
_SMALLEST: Final = 1e-7  # stands for what was nought when an opinion was kept to six places
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
    """What the fine-tuned member counts."""

    weight: float  # its share; the head has the rest
    temperature: float
    opinions: int  # that it was chosen by; 0: there were too few


DEFAULT_MIX: Final = Mix(weight=_DEFAULT_WEIGHT, temperature=_DEFAULT_TEMPERATURE, opinions=0)


def choose_mix(
    rows: Sequence[Answered], label_maps: Mapping[str, Sequence[str]], *, otherwise: Mix = DEFAULT_MIX
) -> Mix:
    """The mix with the lowest log loss on the newest opinions from before the label was seen.

    It is pulled slightly towards half the weight at a temperature of 2.

    Args:
        rows: with their opinions, in any order.
        label_maps: labels of earlier versions by version id, to read their opinions with.
        otherwise: the mix where there are too few opinions.
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
    if len(newest) < _MIN_OPINIONS:
        return otherwise
    head = np.array([members[0][place] for _, _, members, place in newest])
    tuned = {
        temperature: np.array([believed(members, temperature)[place] for _, _, members, place in newest])
        for temperature in _TEMPERATURES
    }

    def loss(choice: tuple[float, float]) -> float:
        weight, temperature = choice
        mixed = (1.0 - weight) * head + weight * tuned[temperature]
        pull = _WEIGHT_PULL * abs(weight - _DEFAULT_WEIGHT)
        pull += _TEMPERATURE_PULL * abs(float(np.log2(temperature / _DEFAULT_TEMPERATURE)))
        return float(-np.log(np.clip(mixed, 1e-9, 1.0)).mean()) + pull

    weight, temperature = min(product(_WEIGHTS, _TEMPERATURES), key=loss)
    return Mix(weight=weight, temperature=temperature, opinions=len(newest))


def believed(members: Sequence[Sequence[float]], temperature: float) -> FloatArray:
    """What the fine-tuned member's probabilities are at a temperature: [labels].

    On labels that it was never shown, which are the last ones, it says what the head says, at any temperature.

    Args:
        members: [2, labels]: the head's probabilities, and the fine-tuned member's at temperature 1.
        temperature: divides the latter's log-probabilities on the labels that it knows.
    """
    head, probs = (np.array(member, np.float32) for member in members)
    differ = np.flatnonzero(probs != head)
    known = int(differ[-1]) + 1 if len(differ) else 0
    if known:
        floored = np.maximum(probs[None, :known], _SMALLEST)
        probs[:known] = probs[:known].sum() * tempered(floored, temperature)[0]
    return probs
