"""Topics that change half way, and questions off every topic: `python -m tests.bench.drift [--json]`.

A stream of banking77: rows of one half of the intents, then rows of the others with a fifth of the first among them,
replayed by the backtest. Told of it:

- the share that went to the teacher in each tenth, where a budget decides and where a promise does;
- what is forgotten: accuracy on held-out rows of the first topics, by the last student of the run; beside it one
  trained on the same rows at once, and the student of before the change fine-tuned on the new rows alone;
- a promise over one set of topics with three questions in a hundred off all of them: which share of these, and of the
  others, the serving versions sent away.

Prints one JSON object as its last line.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ops.backtest.log import Log
from ops.backtest.records import Answers, Ask, Run
from ops.backtest.replay import Replay
from ops.backtest.tasks.texts import ColumnNames, read_log
from store.student.classify import Student
from trainer.attempt import Attempt
from trainer.learn.classify.fit import FineTuneMode, FitSettings, fit
from trainer.learn.classify.recipe import classifier, drafted, labelled

SHARED: Final = Path(__file__).parents[3] / "shared" / "data"
PARTS: Final = 10
SEED: Final = 1
_RECURRING: Final = 0.2  # of the rows after the change: the first topics go on
_HELD_OUT: Final = 1200  # rows, of each half's topics
_OFF_RATIO: Final = 0.03
_OFF_SEEDS: Final = (1, 2, 3)
_ESCALATED: Final = frozenset({"novel", "low_confidence"})
_FOREIGN: Final = "clinc:"
_NEAR_BANKING: Final = """account_blocked application_status apr balance bill_balance bill_due card_declined
    credit_limit credit_limit_change credit_score damaged_card direct_deposit exchange_rate expiration_date
    freeze_account improve_credit_score income insurance insurance_change interest_rate international_fees min_payment
    new_card order_checks pay_bill pin_change redeem_rewards replacement_card_duration report_fraud report_lost_card
    rewards_balance rollover_401k routing spending_history taxes transactions transfer"""

Places = NDArray[np.int64]
Words = NDArray[np.object_]


@dataclass(frozen=True, kw_only=True)
class Drift:
    """A stream that changes half way."""

    topics: int  # of the first half; as many others, or what is left, in the second
    rows: int
    budget: int
    target: float | None
    fine_tune: bool


BUDGET_ONLY: Final = Drift(topics=38, rows=5000, budget=1900, target=None, fine_tune=True)
PROMISE: Final = Drift(topics=12, rows=3000, budget=3000, target=0.9, fine_tune=False)
OFF_TOPIC: Final = Drift(topics=12, rows=1600, budget=1600, target=0.9, fine_tune=False)


def drifting(labels: Words, first: Sequence[str], then: Sequence[str], rows: int, rng: np.random.Generator) -> Places:
    """Places of a stream's rows, in its order: half of them of the first topics, then the others with a fifth of these.

    Raises:
        ValueError: there are too few rows of a kind.
    """
    before, after = rows // 2, rows - rows // 2
    again = round(_RECURRING * after)
    old = rng.permutation(np.flatnonzero(np.isin(labels, first)))
    new = rng.permutation(np.flatnonzero(np.isin(labels, then)))
    if len(old) < before + again or len(new) < after - again:
        message = f"{rows} rows are wanted of {len(old)} and {len(new)}"
        raise ValueError(message)
    late = rng.permutation(np.concatenate([old[before : before + again], new[: after - again]]))
    return np.concatenate([old[:before], late])


def shares(mask: NDArray[np.bool_], parts: int = PARTS) -> list[float]:
    """The share that is true in each part of the stream."""
    return [round(float(part.mean()), 4) for part in np.array_split(mask, parts)]


def read_all() -> tuple[Log, Words]:
    """banking77 followed by questions of other trades, and what each is about."""
    log = read_log(SHARED / "banking77.jsonl", ColumnNames(), 1.0)
    texts, labels, near = list(log.texts), list(log.labels), set(_NEAR_BANKING.split())
    for line in (SHARED / "near_duplicates.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        topic = str(row["answer"])
        if row["kind"] == "base" and topic.startswith(_FOREIGN) and topic[len(_FOREIGN) :] not in near:
            texts.append(row["text"])
            labels.append(topic)
        if len(texts) >= log.rows + 1000:
            break
    more = len(texts) - log.rows
    whole = replace(
        log,
        texts=texts,
        labels=labels,
        gold=[None] * len(texts),
        ids=[*log.ids, *(f"other-{number}" for number in range(more))],
        times_s=np.linspace(log.times_s[0], log.times_s[-1], len(texts)),
    )
    return whole, np.array(labels, object)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The file with its features, and its topics in an order of chance."""

    replay: Replay
    labels: Words
    topics: Sequence[str]

    def run(self, drift: Drift, places: Places, seed: int) -> tuple[Run, Answers, list[tuple[int, Attempt]]]:
        """Replay these rows."""
        ask = Ask(
            budget=drift.budget,
            seed=seed,
            target=drift.target,
            audit_ratio=0.0 if drift.target is None else 0.05,
            fine_tune=drift.fine_tune,
        )
        made: list[tuple[int, Attempt]] = []
        run, answers = self.replay.sub(places.tolist()).run(
            ask, lambda _done, _rows: None, lambda row, attempt: made.append((row, attempt))
        )
        return run, answers, made

    def accuracy(self, student: Student, places: Places) -> dict[str, float]:
        """Of the student and of its fine-tuned member alone."""
        logits = student.tuned_logits([self.replay.log.texts[place] for place in places])
        said = {"student": student.predict_from(self.replay.features[places], logits).probs}
        if logits is not None:
            said["member_alone"] = logits
        names = np.array(student.labels, object)
        truth = self.labels[places]
        return {who: round(100 * float((names[of.argmax(axis=1)] == truth).mean()), 2) for who, of in said.items()}


def escalations(run: Run, answers: Answers, truth: Words) -> dict[str, Any]:
    """What went to the teacher: in tenths of the stream, and in hundreds of rows around the change.

    Args:
        run: its figures.
        answers: its rows.
        truth: [rows] the teacher's answers.
    """
    right, own = np.array(answers.answer, object) == truth, ~answers.by_teacher
    reasons = np.array(answers.reason, object)
    change = run.rows // 2
    return {
        "rows": run.rows,
        "calls": run.calls,
        "escalated": shares(answers.by_teacher),
        "escalated_200_rows_before": shares(answers.by_teacher[change - 200 : change], 2),
        "escalated_500_rows_after": shares(answers.by_teacher[change : change + 500], 5),
        "own_answers_agree": [
            round(float(hit[mine].mean()), 4) if mine.any() else None
            for hit, mine in zip(np.array_split(right, PARTS), np.array_split(own, PARTS), strict=True)
        ],
        "novel": shares(answers.by_teacher & (reasons == "novel")),
        "agreement": run.agreement,
        "answered_agreement": run.answered_agreement,
        "certified_row": run.certified_row,
        "cycles": [run.head_cycles, run.fine_tune_cycles, run.refused_cycles],
        "seconds": round(run.seconds, 1),
    }


def forgetting(
    bench: Bench, made: Sequence[tuple[int, Attempt]], change: int, held: dict[str, Places]
) -> dict[str, Any]:
    """Accuracy in percent on held-out rows of the first and the last topics."""
    before, last = [one for row, one in made if row <= change][-1], made[-1][1]
    rows, known = last.frozen.snapshot.rows, before.trained
    fresh = [place for place, row in enumerate(rows) if row.item_id not in known]

    def fitted(places: Sequence[int], previous: Student | None, mode: FineTuneMode) -> Student:
        return fit(
            [rows[place] for place in places],
            labelled(last.frozen).features[list(places)],
            labels=last.frozen.snapshot.labels,
            base=labelled(last.frozen).base,
            previous=previous,
            settings=FitSettings(threads=1),
            seed=SEED,
            fine_tune=mode,
            label_maps={},
        ).student()

    students = {
        "before_the_change": classifier(before.draft.student()),
        "last": classifier(last.draft.student()),
        "everything_at_once": fitted(range(len(rows)), None, "fresh"),
        "naive_new_rows_only": fitted(fresh, classifier(before.draft.student()), "warm"),
    }
    found: dict[str, Any] = {
        who: {topics: bench.accuracy(student, places) for topics, places in held.items()}
        for who, student in students.items()
    }
    of = {who: found[who]["first_topics"]["student"] for who in students}
    return found | {
        "rows": len(rows),
        "new_rows": len(fresh),
        "fine_tuned": [
            {"row": row, "rows": one.draft.record.tuned_rows, "labels": len(drafted(one.draft).labels)}
            for row, one in made
            if drafted(one.draft).kind == "fine_tune"
        ],
        "forgotten_points": round(of["everything_at_once"] - of["last"], 2),
        "forgotten_points_naive": round(of["everything_at_once"] - of["naive_new_rows_only"], 2),
    }


def off_topic(bench: Bench) -> dict[str, Any]:
    """The share of rows that certified versions sent away, of each kind, over a few streams."""
    foreign = np.flatnonzero([str(label).startswith(_FOREIGN) for label in bench.labels])
    sent: dict[str, list[NDArray[np.bool_]]] = {"off_topic": [], "in_domain": [], "off_topic_novel": []}
    runs = []
    for seed in _OFF_SEEDS:
        rng = np.random.default_rng(seed)
        own = rng.permutation(np.flatnonzero(np.isin(bench.labels, rng.permutation(bench.topics)[: OFF_TOPIC.topics])))
        off = round(_OFF_RATIO * OFF_TOPIC.rows)
        places = rng.permutation(np.concatenate([own[: OFF_TOPIC.rows - off], rng.choice(foreign, off, replace=False)]))
        run, answers, _ = bench.run(OFF_TOPIC, places, seed)
        runs.append(run)
        served = np.arange(run.rows) >= (run.certified_row or run.rows)
        strange = np.isin(places, foreign)
        reasons = np.array(answers.reason, object)
        away = answers.by_teacher & np.isin(reasons, list(_ESCALATED))
        sent["off_topic"].append(away[served & strange])
        sent["in_domain"].append(away[served & ~strange])
        sent["off_topic_novel"].append((away & (reasons == "novel"))[served & strange])
    return {
        "runs": len(runs),
        "off_topic_rows": int(sum(map(len, sent["off_topic"]))),
        "in_domain_rows": int(sum(map(len, sent["in_domain"]))),
        "escalated": {kind: round(float(np.concatenate(of).mean()), 4) for kind, of in sent.items()},
        "answered_agreement": [run.answered_agreement for run in runs],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="topics that change half way, and questions off every topic")
    parser.add_argument("--cache", type=Path, default=Path(".cache/features"), help="where features are kept")
    parser.add_argument("--only", choices=["budget", "promise", "off_topic"], help="one of the three")
    parser.add_argument("--json", action="store_true", help="print the JSON object alone")
    chosen = parser.parse_args()
    if not SHARED.is_dir():
        sys.exit(f"{SHARED}: the data for benchmarks is not here")
    started_s = time.monotonic()
    log, labels = read_all()
    own = sorted({str(label) for label in labels if not str(label).startswith(_FOREIGN)})
    topics = np.random.default_rng(SEED).permutation(own).tolist()
    replay = Replay(log, encoder="minilm", cache=chosen.cache)
    replay.prepare(lambda _done, _rows: None)
    bench = Bench(replay=replay, labels=labels, topics=topics)
    report: dict[str, Any] = {"embedding_s": round(time.monotonic() - started_s, 1)}
    for name, drift in (("promise", PROMISE), ("budget", BUDGET_ONLY)):
        if chosen.only not in {None, name}:
            continue
        first, then = topics[: drift.topics], topics[drift.topics :][: drift.topics + 1]
        places = drifting(labels, first, then, drift.rows, np.random.default_rng(SEED))
        run, answers, made = bench.run(drift, places, SEED)
        report[name] = escalations(run, answers, labels[places])
        if drift.fine_tune:
            left = np.random.default_rng(SEED).permutation(np.setdiff1d(np.arange(len(labels)), places))
            held = {
                "first_topics": left[np.isin(labels[left], first)][:_HELD_OUT],
                "last_topics": left[np.isin(labels[left], then)][:_HELD_OUT],
            }
            report["forgetting"] = forgetting(bench, made, drift.rows // 2, held)
    if chosen.only in {None, "off_topic"}:
        report["off_topic"] = off_topic(bench)
    report["wall_s"] = round(time.monotonic() - started_s, 1)
    if not chosen.json:
        print(json.dumps(report, indent=1))  # noqa: T201 - a benchmark reports
    print(json.dumps(report))  # noqa: T201


if __name__ == "__main__":
    main()
