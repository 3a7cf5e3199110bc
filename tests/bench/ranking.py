"""Agreement per teacher call of the ranking student: `python -m tests.bench.ranking --data FILE --json`.

Streams of lists are played through the budget's own rules (`store.policy`), the head is refitted as lists are bought,
and every answer is scored: bought ones agree, the student's agree or not by the lane's tolerance. Random escalation,
the first N lists, the student that never learns and the teacher against a noisy copy of itself stand beside ours.
Coverage is what `trainer.judge.calibrate` certifies on 800 lists, and what happens on the lists after them. Prints one
JSON object as its last line.
"""

import argparse
import json
import sys
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch

from serve.routing.pace import RECENT
from store.policy import Allowance, escalation_limit, outright_calls
from store.student.encoder import Encoder, FloatArray
from store.student.folder import find_encoder
from store.student.rank.head import confidence
from store.student.rank.vectors import VectorCache, sentence_vectors
from store.tasks.measures import best_first, ndcg, tau
from store.tasks.rank import Tolerance, agree
from tests.bench.catalogue import offers, shop
from trainer.judge.calibrate import certify
from trainer.learn.rank.head import RankedList, fit_rank_head, untaught

DATA: Final = Path(__file__).parents[3] / "shared" / "data" / "rerank.jsonl"
_CALIBRATION: Final = 800
_TARGET: Final = 0.9
_CONFIDENCE: Final = 0.95
_FIRST_FIT: Final = 25
_GROWTH: Final = 1.25  # of the lists since the last fit
_NOISE: Final = (0.01, 0.02, 0.05)
_CATALOGUE_ITEMS: Final = 500
_CATALOGUE_ROWS: Final = 1_500

Way = Literal["ours", "random", "first", "untrained"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One stream."""

    data: str
    way: Way
    budget: int
    order: int
    tolerance: Tolerance


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """How it went."""

    job: Job
    agreed: float  # of all answers
    calls: int


_streams: dict[str, list[RankedList]] = {}


def _open(streams: dict[str, list[RankedList]]) -> None:
    torch.set_num_threads(1)
    _streams.update(streams)


def play(lists: Sequence[RankedList], job: Job) -> Played:
    """Answer every list in its turn, and learn in between."""
    rng = np.random.default_rng(job.order)
    turn = rng.permutation(len(lists))
    hidden = lists[0].documents.shape[1]
    head, fit_at = untaught(hidden), _FIRST_FIT
    recent: deque[float] = deque(maxlen=RECENT)
    bought: list[RankedList] = []
    agreed = 0
    for at, index in enumerate(turn):
        one = lists[index]
        scores = head.scores(one.query, one.documents, one.keys)
        recent.append(1.0 - confidence(scores, head.sigmas(one.keys), job.tolerance))
        allowance = Allowance(
            calls_left=job.budget - len(bought),
            rows_left=len(turn) - at,
            bought=len(bought),
            first=outright_calls(job.budget, len(turn)),
        )
        if allowance.calls_left > 0 and _buys(job.way, allowance, recent, rng):
            bought.append(one)
            agreed += 1
            if len(bought) >= fit_at and job.way != "untrained":
                head, fit_at = fit_rank_head(bought, hidden_size=hidden), round(len(bought) * _GROWTH)
        else:
            agreed += agree(one.target, best_first(scores, one.keys), job.tolerance)
    return Played(job=job, agreed=agreed / len(turn), calls=len(bought))


def _buys(way: Way, allowance: Allowance, recent: Sequence[float], rng: np.random.Generator) -> bool:
    if way == "first":
        return True
    if way == "random":
        return bool(rng.random() < allowance.calls_left / allowance.rows_left)
    return allowance.outright or recent[-1] >= escalation_limit(recent, allowance)


def _play(job: Job) -> Played:
    return play(_streams[job.data], job)


def coverage(lists: Sequence[RankedList], *, order: int, tolerance: Tolerance) -> dict[str, float]:
    """What is certified on 800 lists that no head has seen, and what is kept on the lists that nobody has seen."""
    turn = np.random.default_rng(order).permutation(len(lists))
    learn, judge, rest = np.split(turn, [len(lists) // 5, len(lists) // 5 + _CALIBRATION])
    head = fit_rank_head([lists[i] for i in learn], hidden_size=lists[0].documents.shape[1])
    said = {i: head.scores(lists[i].query, lists[i].documents, lists[i].keys) for i in (*judge, *rest)}

    def judged(index: npt.NDArray[np.intp]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        sure = [confidence(said[i], head.sigmas(lists[i].keys), tolerance) for i in index]
        right = [agree(lists[i].target, best_first(said[i], lists[i].keys), tolerance) for i in index]
        return np.array(sure), np.array(right)

    sure, right = judged(judge)
    found = certify(sure, right, np.ones(len(judge)), target=_TARGET, confidence=_CONFIDENCE, seed=order)
    later_sure, later_right = judged(rest)
    answered = later_sure >= (found.threshold if found is not None else 2.0)
    scored = [(lists[i], said[i]) for i in rest]
    return {
        "certified": found.coverage_ratio if found is not None else 0.0,
        "answered": float(answered.mean()),
        "agreement": float(later_right[answered].mean()) if answered.any() else float("nan"),
        "auroc": _auroc(later_sure, later_right),
        "tau": float(np.mean([tau(one.target, s, epsilon=tolerance.epsilon) for one, s in scored])),
        "ndcg": float(np.mean([ndcg(one.target, best_first(s, one.keys), k=len(s)) for one, s in scored])),
    }


def _auroc(sure: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]) -> float:
    """Chance that an agreed answer is surer than one that is not."""
    if right.all() or not right.any():
        return float("nan")
    apart = np.sign(np.subtract.outer(sure[right], sure[~right]))
    return float((apart.mean() + 1.0) / 2.0)


def teacher_itself(lists: Sequence[RankedList], tolerance: Tolerance) -> dict[str, float]:
    """How often a copy of the teacher with normal noise agrees with it."""
    rng = np.random.default_rng(0)
    return {
        f"{noise}": float(
            np.mean(
                [
                    agree(
                        one.target,
                        best_first(one.target + rng.normal(0.0, noise, len(one.target)), one.keys),
                        tolerance,
                    )
                    for one in lists
                ]
            )
        )
        for noise in _NOISE
    }


def read_rerank(path: Path, encoder: Encoder) -> list[RankedList]:
    """The lists of a log with queries, documents and the teacher's scores."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return _encoded(
        encoder, [(row["query"], tuple(row["documents"]), np.array(row["teacher"]["scores"])) for row in rows]
    )


def read_catalogue(encoder: Encoder, seed: int) -> list[RankedList]:
    """A shop whose teacher has favourites."""
    items = shop(_CATALOGUE_ITEMS, favour_sd=0.15, seed=seed)
    found = offers(items, _CATALOGUE_ROWS, noise=0.02, seed=seed)
    return _encoded(encoder, [(one.query, one.documents, one.scores) for one in found])


def _encoded(
    encoder: Encoder, rows: Sequence[tuple[str, tuple[str, ...], npt.NDArray[np.float64]]]
) -> list[RankedList]:
    cache = VectorCache(encoder)
    cache.documents(sorted({document for _, documents, _ in rows for document in documents}))
    queries = sorted({query for query, _, _ in rows})
    asked: dict[str, FloatArray] = dict(zip(queries, sentence_vectors(encoder, queries), strict=True))
    lists = []
    for query, documents, scores in rows:
        vectors, keys = cache.documents(documents)
        lists.append(RankedList(query=asked[query], documents=vectors, keys=keys, target=scores))
    return lists


def jobs_of(orders: int) -> list[Job]:
    """All streams of the benchmark."""
    close, first = Tolerance(k=1, epsilon=0.05), Tolerance(k=1, epsilon=0.0)
    ways: tuple[Way, ...] = ("ours", "random", "first", "untrained")
    return [
        Job(data=data, way=way, budget=budget, order=order, tolerance=tolerance)
        for data, budgets, tolerance in (("rerank", (300, 600), close), ("catalogue", (225, 450), first))
        for budget in budgets
        for way in ways
        for order in range(orders)
    ]


def report(played: Sequence[Played]) -> dict[str, dict[str, Any]]:
    """Means and standard errors over the orders: data -> `way@budget` -> numbers."""
    found: dict[str, dict[str, Any]] = {}
    groups: dict[tuple[str, str], list[Played]] = {}
    for one in played:
        groups.setdefault((one.job.data, f"{one.job.way}@{one.job.budget}"), []).append(one)
    for (data, name), group in groups.items():
        agreed = np.array([one.agreed for one in group])
        error = float(agreed.std(ddof=1) / np.sqrt(len(agreed))) if len(agreed) > 1 else float("nan")
        found.setdefault(data, {})[name] = {
            "agreement": round(float(agreed.mean()), 4),
            "standard_error": round(error, 4),
            "calls": max(one.calls for one in group),
        }
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it all and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--encoder", default="minilm", help="a model directory; default: the wheel's")
    parser.add_argument("--orders", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    if not asked.data.is_file():
        sys.stderr.write(f"{asked.data}: no such file; name a log of lists with --data\n")
        return 2
    encoder = Encoder.load(find_encoder(asked.encoder, "--encoder"), precision="fp32")
    streams = {"rerank": read_rerank(asked.data, encoder), "catalogue": read_catalogue(encoder, 0)}
    with ProcessPoolExecutor(asked.workers, get_context("spawn"), _open, (streams,)) as pool:
        played = []
        for one in pool.map(_play, jobs_of(asked.orders)):
            played.append(one)
            if not asked.json:
                job = one.job
                sys.stdout.write(f"{job.data} {job.way} {job.budget} order {job.order}: {one.agreed:.4f}\n")
    tolerance = Tolerance(k=1, epsilon=0.05)
    covered = [coverage(streams["rerank"], order=order, tolerance=tolerance) for order in range(asked.orders)]
    result = {
        "agreement": report(played),
        "coverage": {name: round(float(np.nanmean([one[name] for one in covered])), 4) for name in covered[0]},
        "teacher_with_itself": teacher_itself(streams["rerank"], tolerance),
        "orders": asked.orders,
    }
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
