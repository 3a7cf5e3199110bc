"""Simulated chat streams of a known truth: how often the promise is kept, and how often a plugged-in threshold does.

python -m tests.bench.chat_promise --json
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any, Final

from scipy.stats import binom

from tests.trainer.chat.signal_streams import CONFIDENCE, Found, Kind, follow

KINDS: Final = (
    Kind(name="cold, target .80", target=0.8, ease=1.0),
    Kind(name="cold, target .85", target=0.85, ease=1.5, traps=0.03),
    Kind(name="cold, target .90, few rows", target=0.9, ease=2.0, traps=0.03, asked=200, held=150),
    Kind(name="cold, target .95, many rows", target=0.95, ease=2.5, traps=0.02, asked=2000, held=2000),
    Kind(name="audited, target .85", target=0.85, held=4000, ease=1.5, traps=0.03, seen="audits"),
    Kind(name="audited, target .90", target=0.9, held=8000, ease=2.0, traps=0.03, seen="audits"),
)


def measure(kind: Kind, streams: int) -> dict[str, Any]:
    """So many streams of one kind, calibrated as the product does, and with a threshold plugged in."""
    own = [follow(kind, seed) for seed in range(streams)]
    plugged = [follow(kind, seed, plug_in=True) for seed in range(streams)]
    certified = [one for one in own if one.threshold is not None]
    return {
        "kind": kind.name,
        "target": kind.target,
        "streams": streams,
        "certified": len(certified),
        "broken": _broken(own, kind),
        "broken_at_most": int(binom.ppf(0.95, streams, 1 - CONFIDENCE)),
        "coverage": _mean([one.coverage for one in certified]),
        "agreement": _mean([one.agreement for one in certified if one.agreement is not None]),
        "broken_if_plugged_in": _broken(plugged, kind),
    }


def _broken(found: Sequence[Found], kind: Kind) -> int:
    return sum(one.broken(kind.target) for one in found)


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None


def main() -> None:
    """Run every kind of stream."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    found = [measure(kind, chosen.streams) for kind in KINDS]
    if chosen.json:
        json.dump(found, sys.stdout, indent=1)
        sys.stdout.write("\n")
        return
    for one in found:
        sys.stdout.write("  ".join(f"{name} {value}" for name, value in one.items()) + "\n")


if __name__ == "__main__":
    main()
