"""Learners to compare with: the service's own, with one part taken out or replaced. Only benchmarks do this."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ops.backtest.records import Ask
from serve.routing.budget import BudgetRouting
from serve.routing.routing import Choice
from store.policy import Policy
from store.student.loaded import Opinion
from trainer.due import ScheduleSettings

NEVER: Final = 1e9
_THE_FIRST_ALONE: Final = 0.9  # of all items are new at the first cycle, and at no later one


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What differs from the service."""

    what: str
    parts: Mapping[str, Any] = field(default_factory=dict)  # "module:name[.name]" -> what stands there instead
    ask: Callable[[Ask], Ask] = lambda ask: ask
    schedule: Callable[[ScheduleSettings, Ask], ScheduleSettings] = lambda schedule, _ask: schedule


@contextmanager
def swapped(parts: Mapping[str, Any]) -> Iterator[None]:
    """Put the parts in, and the old ones back afterwards."""
    before = []
    try:
        for path, value in parts.items():
            module, _, names = path.partition(":")
            *outer, name = names.split(".")
            owner = import_module(module)
            for one in outer:
                owner = getattr(owner, one)
            before.append((owner, name, getattr(owner, name)))
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in reversed(before):
            setattr(owner, name, value)


class RandomRouting(BudgetRouting):
    """Spends at the same pace, on questions drawn at random: by an uncertainty that says nothing."""

    _chance: np.random.Generator | None = None
    _drawn: float = 0.0

    def see(self, opinion: Opinion, version: str) -> None:
        """Draw one for this question."""
        if self._chance is None:
            self._chance = np.random.default_rng(0)
        self._drawn = float(self._chance.random())
        super().see(replace(opinion, uncertainty=self._drawn), version)

    def choose(self, policy: Policy | None, opinion: Opinion | None, **rest: Any) -> Choice:
        """By what was drawn."""
        drawn = None if opinion is None else replace(opinion, uncertainty=self._drawn)
        return super().choose(policy, drawn, **rest)


def _fresh(fit: Callable[..., Any]) -> Callable[..., Any]:
    def from_the_base(*arguments: Any, fine_tune: str, **named: Any) -> Any:
        return fit(*arguments, fine_tune="fresh" if fine_tune == "warm" else fine_tune, **named)

    return from_the_base


def _misled(train: Callable[..., Any]) -> Callable[..., Any]:
    def with_labels_dealt_anew(encoder: Any, texts: Any, targets: Any, *, seed: int, **named: Any) -> Any:
        order = np.random.default_rng(seed).permutation(len(targets))
        return train(encoder, texts, targets[order], seed=seed, **named)

    return with_labels_dealt_anew


def _averaged(members: Sequence[NDArray[np.float32]], _weights: Sequence[float]) -> NDArray[np.float32]:
    """A linear opinion pool."""
    from store.student.classify import tempered  # noqa: PLC0415 - torch, late

    head, *tuned = members
    return (head + tempered(tuned[0], 2.0)) / np.float32(2.0) if tuned else head


def _logistic_head(
    features: NDArray[np.float32],
    targets: NDArray[np.float32],
    *,
    weights: NDArray[np.float32],
    scale: float,
) -> Any:
    """A logistic regression in the discriminants' place."""
    from store.student.head import Head  # noqa: PLC0415 - torch, late
    from trainer.learn.classify.probe import probe  # noqa: PLC0415 - as above

    found = probe(features, targets, weights)
    return Head(weight=found.weight, bias=found.bias)


def _scale_of_one(_features: NDArray[np.float32], _targets: NDArray[np.float32], **_weights: Any) -> float:
    return 1.0


def _once(share: float) -> Callable[[ScheduleSettings, Ask], ScheduleSettings]:
    """One cycle, when this share of the budget has been spent."""

    def schedule(settings: ScheduleSettings, ask: Ask) -> ScheduleSettings:
        return replace(
            settings, min_new_labels=int(share * ask.budget) - 1, growth_ratio=_THE_FIRST_ALONE, every_s=NEVER
        )

    return schedule


def _head_alone(ask: Ask) -> Ask:
    from msgspec import structs  # noqa: PLC0415 - a lambda cannot hold an import

    return structs.replace(ask, fine_tune=False)


OURS: Final = Variant(what="as the service runs it")
BASELINES: Final[Mapping[str, Variant]] = {
    "random_escalation": Variant(
        what="the same learner and pace, questions bought at random",
        parts={"ops.backtest.play:BudgetRouting": RandomRouting},
    ),
    "head_trained_once": Variant(
        what="half of the budget first, the head trained once, the rest spent by its margin",
        parts={"store.policy:OUTRIGHT_RATIO": 0.5, "store.policy:OUTRIGHT_ROWS_RATIO": 0.0},
        ask=_head_alone,
        schedule=_once(0.5),
    ),
    "one_off_training": Variant(
        what="all calls on the first rows, then the same learner trained once and left alone",
        parts={"store.policy:OUTRIGHT_RATIO": 1.0},
        schedule=_once(0.98),
    ),
}


def ablations() -> Mapping[str, Variant]:
    """The learner without each of its parts."""
    from trainer.learn.classify.fine_tune import fine_tune  # noqa: PLC0415 - torch, late
    from trainer.learn.classify.fit import fit  # noqa: PLC0415 - as above
    from trainer.learn.classify.mix import DEFAULT_MIX  # noqa: PLC0415 - as above

    always = {"trainer.learn.classify.fit:choose_mix": lambda _rows, _label_maps: DEFAULT_MIX}
    misled = {"trainer.learn.classify.fit:train_member": _misled(fine_tune)}
    return {
        "the head alone, no fine-tuning": Variant(what="no slow member", ask=_head_alone),
        "fine-tuning from the base each time": Variant(
            what="no warm start", parts={"trainer.attempt:fit": _fresh(fit)}
        ),
        "members always weighed as at first": Variant(what="no weights from opinions before the label", parts=always),
        "members averaged, not pooled": Variant(
            what="an arithmetic mean, half each, the fine-tuned member at temperature 2",
            parts={"store.student.classify:pool": _averaged, **always},
        ),
        "the fine-tuned member misled": Variant(what="fine-tuning on labels dealt out anew", parts=misled),
        "the fine-tuned member misled, members weighed as at first": Variant(
            what="as above, and nothing takes its weight from it", parts={**misled, **always}
        ),
        "logistic regression as the head": Variant(
            what="no discriminants", parts={"trainer.learn.classify.fit:fit_head": _logistic_head}
        ),
        "the head's scale left at 1": Variant(
            what="no scale fitted out of fold", parts={"trainer.learn.classify.fit:choose_scale": _scale_of_one}
        ),
        "constant pace": Variant(
            what="r instead of r^.65",
            parts={"store.policy:PACE_EXPONENT": 1.0},
        ),
        "questions bought at random": BASELINES["random_escalation"],
    }
