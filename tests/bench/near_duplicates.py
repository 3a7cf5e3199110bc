"""Near-duplicates on real questions: `python -m tests.bench.near_duplicates [--data FILE] [--json]`.

Rows: `text`, `answer`, `cluster`, `kind`. Of each cluster the `base` row is the original; planted duplicates share its
number, a hard negative has the number after its original's. Prints one JSON object as its last line:

- recall: planted duplicates in the same link cluster as their original, overall and by kind;
- wrong_answer_links: pairs of linked rows whose answers differ;
- hard_negatives: share of hard negatives in the same link cluster as their original, by kind;
- precision: of all pairs of linked rows, those of one planted cluster. The originals hold natural near-duplicates too
  ("what is my balance", "what's my balance"), which count against it;
- docs_per_s on one core, best of three, by the wall clock and by CPU time; bytes_per_row of signatures.
"""

import argparse
import json
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from store.near.link import SIGNATURE_BYTES, link

DATA: Final = Path(__file__).parents[3] / "shared" / "data" / "near_duplicates.jsonl"
RUNS: Final = 3


def measure(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Link all rows as one batch and score the links."""
    texts, answers = [row["text"] for row in rows], [row["answer"] for row in rows]
    walls, cpus = [], []
    for _ in range(RUNS):
        wall, cpu = time.perf_counter(), time.process_time()
        links = link(texts, answers)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    links = link(texts, answers)
    found, negatives = _shares(rows, links.clusters)
    pairs, right = _pairs(links.clusters, [row["cluster"] for row in rows])
    same_answer = _pairs(links.clusters, answers)[1]
    planted = [hit for hits in found.values() for hit in hits]
    return {
        "rows": len(rows),
        "recall": round(float(np.mean(planted)), 4),
        "recall_by_kind": {kind: round(float(np.mean(hits)), 4) for kind, hits in sorted(found.items())},
        "wrong_answer_links": pairs - same_answer,
        "hard_negatives": {kind: round(float(np.mean(hits)), 4) for kind, hits in sorted(negatives.items())},
        "linked_pairs": pairs,
        "precision": round(right / pairs, 4) if pairs else None,
        "largest_cluster": int(np.bincount(links.clusters).max()),
        "contrasts": len(links.contrasts),
        "exact_only": links.exact_only,
        "links_changed_by_a_shuffle": _changed(texts, answers, links.clusters),
        "docs_per_s": round(len(rows) / min(walls)),
        "docs_per_cpu_s": round(len(rows) / min(cpus)),
        "bytes_per_row": SIGNATURE_BYTES,
    }


def _shares(
    rows: Sequence[Mapping[str, Any]], clusters: npt.NDArray[np.int64]
) -> tuple[dict[str, list[bool]], dict[str, list[bool]]]:
    """Whether each (planted duplicate, hard negative) is linked with its original, by kind."""
    originals = {row["cluster"]: place for place, row in enumerate(rows) if row["kind"] == "base"}
    found: dict[str, list[bool]] = defaultdict(list)
    negatives: dict[str, list[bool]] = defaultdict(list)
    for place, row in enumerate(rows):
        if row["kind"].startswith("hard_"):
            negatives[row["kind"]].append(bool(clusters[place] == clusters[originals[row["cluster"] - 1]]))
        elif row["kind"] != "base":
            found[row["kind"]].append(bool(clusters[place] == clusters[originals[row["cluster"]]]))
    return found, negatives


def _pairs(clusters: npt.NDArray[np.int64], truth: Sequence[object]) -> tuple[int, int]:
    """(linked pairs, linked pairs with the same truth)."""
    both = Counter(zip(clusters.tolist(), truth, strict=True))
    return tuple(sum(n * (n - 1) // 2 for n in counts.values()) for counts in (Counter(clusters.tolist()), both))  # type: ignore[return-value]


def _changed(texts: Sequence[str], answers: Sequence[str], clusters: npt.NDArray[np.int64]) -> int:
    """Rows whose cluster has other members after a shuffle."""
    order = Random(1).sample(range(len(texts)), len(texts))
    shuffled = np.empty(len(texts), np.int64)
    shuffled[order] = link([texts[i] for i in order], [answers[i] for i in order]).clusters
    first: dict[int, int] = {}
    moved = [first.setdefault(int(a), int(b)) != int(b) for a, b in zip(clusters, shuffled, strict=True)]
    return sum(moved) + abs(len(set(clusters.tolist())) - len(set(shuffled.tolist())))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="near-duplicates: recall, hard negatives, speed")
    parser.add_argument("--data", type=Path, default=DATA, help="JSONL with text, answer, cluster, kind")
    parser.add_argument("--json", action="store_true", help="print the JSON object alone")
    chosen = parser.parse_args()
    result = measure([json.loads(line) for line in chosen.data.read_text("utf-8").splitlines()])
    if not chosen.json:
        for name, value in result.items():
            print(f"{name:28} {value}")  # noqa: T201 - a benchmark reports
    print(json.dumps(result))  # noqa: T201


if __name__ == "__main__":
    main()
