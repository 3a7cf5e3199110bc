"""The promise of chat on simulated streams whose truth is known: it is kept as often as is said, and not by silence."""

import pytest
from scipy.stats import binom

from tests.trainer.chat.signal_streams import CONFIDENCE, Kind, follow

STREAMS = 200
MOST_BROKEN = int(binom.ppf(0.95, STREAMS, 1 - CONFIDENCE))  # so many are chance, 19 times in 20
COLD = Kind(name="every question is seen", target=0.85, ease=1.5, traps=0.03)
AUDITED = Kind(name="what is trusted is seen when audited", target=0.85, held=4000, ease=1.5, traps=0.03, seen="audits")


@pytest.mark.parametrize("kind", [COLD, AUDITED], ids=lambda kind: kind.name)
def test_the_promise_is_kept_as_often_as_is_said_and_not_by_answering_nothing(kind: Kind) -> None:
    found = [follow(kind, seed) for seed in range(STREAMS)]
    assert sum(one.broken(kind.target) for one in found) <= MOST_BROKEN
    certified = [one for one in found if one.threshold is not None]
    assert len(certified) > 0.8 * STREAMS
    assert sum(one.coverage for one in certified) / len(certified) > 0.3


def test_a_threshold_that_is_plugged_in_breaks_it_too_often() -> None:
    found = [follow(COLD, seed, plug_in=True) for seed in range(STREAMS)]
    assert sum(one.broken(COLD.target) for one in found) > 2 * MOST_BROKEN
