"""Speed of our fine-tuning beside `transformers.Trainer`: `python -m tests.bench.training [--json]`.

Both train the same encoder on the same rows with the same number of threads, in turns, and are judged on the same
held-out rows: cross-entropy against the teacher's labels, each side at a temperature, as versions serve. The Trainer
has its defaults (fp32, batches of 8, rate 5e-5, every parameter) and our number of epochs. Prints one JSON object as
its last line; without --json, progress before it:

- ours, trainer: as configured, at the same number of epochs; medians over the repeats. Seconds count everything from
  texts to a trained network, ours with the embedding and the probe it starts from; reading weights from disk does not;
- held_out_loss: the temperature is fitted on every third held-out row, the loss is that of the others;
- raw_loss: of all of them, with none;
- equal_loss: more epochs lower one side's loss and, where it overfits, raise the other's. So each side is also given
  the fewest epochs that come within 2 % of the Trainer's loss, always as a whole run with a schedule of that length:
  ours tried upwards from one, the Trainer's downwards from as configured. Where we do not come so near, our lowest is
  what the Trainer has to come within 2 % of;
- ..._ratio: ours over the Trainer's, of seconds the Trainer's over ours; the median of the ratios within each repeat;
- threads_tried: our embedding and fine-tuning alone, with one thread and two. It says something only where
  `machine.others_busy_cores` is near 0: beside another busy process the second thread waits for its core;
- bf16: top answers of one network of ours on the held-out rows, in bf16 and in fp32.

On a busy machine read the ratios, not the rates. Exit code 2: the data is not there, or too short.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import psutil
import torch
import transformers

from store.student.encoder import resolve_device, resolve_precision
from store.student.folder import MINILM
from store.student.tuned import Tuned
from tests.bench.training_sides import Rows, Run, Task, log_loss, our_run, timed, trainer_run
from trainer.learn.classify.fine_tune import FineTuneSettings
from trainer.learn.features import BaseEncoder

DATA: Final = Path(__file__).parents[3] / "shared" / "data" / "isear.jsonl"
TOLERANCE: Final = 0.02  # of held-out loss
_WARM_UP_ROWS: Final = 128
THREADS_TRIED: Final = (1, 2)

Side = Callable[[Task, int, int], Run]  # of a task, epochs and a seed
Figure = Callable[[Run], float]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class EqualLoss:
    """The shortest runs that come to one held-out loss."""

    goal: float
    ours: Run
    trainer: Run


def at_equal_loss(task: Task, ours: Run, trainer: Run, *, we: Side, they: Side) -> EqualLoss:
    """The fewest epochs in which each side comes within the tolerance of the same held-out loss.

    Args:
        task: what is learned.
        ours: our run at the configured number of epochs, the most that are looked at.
        trainer: the Trainer's, likewise.
        we: makes a run of ours; tried from one epoch upwards.
        they: makes one of the Trainer's; tried downwards, as its loss still falls at the end.
    """
    goal = (1.0 + TOLERANCE) * trainer.loss
    tried: list[Run] = []
    while not tried or (tried[-1].loss > goal and tried[-1].epochs < ours.epochs):
        epochs = len(tried) + 1
        tried.append(ours if epochs == ours.epochs else we(task, epochs, 0))
    best = min(tried, key=lambda run: run.loss)
    goal = max(goal, (1.0 + TOLERANCE) * best.loss) if best.loss > goal else goal
    while trainer.epochs > 1 and (shorter := they(task, trainer.epochs - 1, 0)).loss <= goal:
        trainer = shorter
    return EqualLoss(goal=goal, ours=best, trainer=trainer)


def compare(task: Task, *, epochs: int, repeats: int, say: Say) -> dict[str, Any]:
    """Run both sides in turns, at the same number of epochs and at equal loss."""
    few = replace(task, train=task.train.part(np.arange(min(_WARM_UP_ROWS, len(task.train.texts)))))

    def told(name: str, side: Side) -> Side:
        side(few, 1, 0)  # the first batches also set the libraries up

        def run(task: Task, epochs: int, seed: int) -> Run:
            done = side(task, epochs, seed)
            speed = f"{done.seconds:6.1f} s  {done.rate:6.1f} rows/s"
            say(f"{name:8} seed {seed}  {epochs} epochs  {speed}  held-out loss {done.loss:.4f}")
            return done

        return run

    we, they = told("ours", our_run), told("trainer", trainer_run)
    ours, trainer = [we(task, epochs, 0)], [they(task, epochs, 0)]
    found = at_equal_loss(task, ours[0], trainer[0], we=we, they=they)
    our_short, trainer_short = [found.ours], [found.trainer]
    for seed in range(1, repeats):
        for side, runs, short in ((we, ours, our_short), (they, trainer, trainer_short))[:: 1 if seed % 2 == 0 else -1]:
            runs.append(side(task, epochs, seed))
            short.append(runs[-1] if short[0].epochs == epochs else side(task, short[0].epochs, seed))
    return {
        "epochs": epochs,
        "repeats": repeats,
        **_compared(ours, trainer),
        "equal_loss": {"tolerance": TOLERANCE, "goal": round(found.goal, 4), **_compared(our_short, trainer_short)},
        "time_to_equal_loss_ratio": _ratio(trainer_short, our_short, lambda run: run.seconds),
        "cpu_time_to_equal_loss_ratio": _ratio(trainer_short, our_short, lambda run: run.cpu_seconds),
        "bf16": _agreement(task, ours[0].member),
    }


def try_threads(task: Task, *, tried: Sequence[int], repeats: int) -> dict[str, dict[str, float]]:
    """Our embedding and one epoch of fine-tuning with each number of threads, in turns: medians."""
    task = replace(task, held_out=task.held_out.part(np.arange(min(_WARM_UP_ROWS, len(task.held_out.texts)))))
    seconds: dict[int, list[tuple[float, float]]] = {threads: [] for threads in tried}
    for _ in range(repeats):
        for threads in tried:
            with _threads(threads), timed() as clock:
                task.base.encoder.features(task.train.texts)
            with _threads(threads):
                seconds[threads].append((clock.wall_s, our_run(task, 1, 0).seconds))
    rows = len(task.train.texts)
    return {
        str(threads): {
            "embed_rows_per_s": round(rows / median(embed for embed, _ in pairs), 1),
            "fine_tune_rows_per_s": round(rows / median(tune for _, tune in pairs), 1),
        }
        for threads, pairs in seconds.items()
    }


def read_task(data: Path, base: BaseEncoder, *, train_rows: int, seed: int = 1) -> Task:
    """The rows that the teacher answered, shuffled: the first to learn from, the rest held out.

    Raises:
        ValueError: the file holds no more than the training rows.
    """
    found = [json.loads(line) for line in data.read_text("utf-8").splitlines()]
    answered = [(row["text"], row["teacher"]["label"]) for row in found if (row.get("teacher") or {}).get("label")]
    if len(answered) <= train_rows:
        message = f"{data} has {len(answered)} answered rows: more than {train_rows} are needed"
        raise ValueError(message)
    labels = sorted({label for _, label in answered})
    place = {label: i for i, label in enumerate(labels)}
    rows = Rows(texts=[text for text, _ in answered], answers=np.array([place[label] for _, label in answered]))
    order = np.random.default_rng(seed).permutation(len(answered))
    return Task(base=base, labels=labels, train=rows.part(order[:train_rows]), held_out=rows.part(order[train_rows:]))


def _compared(ours: list[Run], trainer: list[Run]) -> dict[str, Any]:
    return {
        "ours": _summary(ours),
        "trainer": _summary(trainer),
        "rows_per_s_ratio": _ratio(ours, trainer, lambda run: run.rate),
        "rows_per_cpu_s_ratio": _ratio(ours, trainer, lambda run: run.cpu_rate),
        "held_out_loss_ratio": _ratio(ours, trainer, lambda run: run.loss),
        "raw_loss_ratio": _ratio(ours, trainer, lambda run: run.raw_loss),
    }


def _ratio(over: list[Run], under: list[Run], figure: Figure) -> float:
    """The median of the ratios within each repeat: what else runs here slows both sides of one."""
    return round(median(figure(a) / figure(b) for a, b in zip(over, under, strict=True)), 3)


def _summary(runs: list[Run]) -> dict[str, Any]:
    def middle(figure: Figure) -> float:
        return round(median(map(figure, runs)), 4)

    return {
        "epochs": runs[0].epochs,
        "seconds": middle(lambda run: run.seconds),
        "rows_per_s": middle(lambda run: run.rate),
        "rows_per_cpu_s": middle(lambda run: run.cpu_rate),
        "held_out_loss": middle(lambda run: run.loss),
        "raw_loss": middle(lambda run: run.raw_loss),
        "held_out_agreement": middle(lambda run: run.agreement),
        "seconds_each": [round(run.seconds, 2) for run in runs],
    }


def _agreement(task: Task, member: Tuned | None) -> dict[str, Any]:
    """How often one network gives the same top answer in bf16 and in fp32."""
    if member is None:
        return {}
    logits = {}
    for precision in ("bf16", "fp32"):
        longest = task.base.encoder.max_tokens
        base = BaseEncoder.open(task.base.directory, precision=precision, max_tokens=longest)
        twin = Tuned(base.encoder, changed=member.changed, weight=member.weight, bias=member.bias)
        logits[precision] = twin.logits(base.encoder.tokenise(task.held_out.texts))
    same = logits["bf16"].argmax(axis=1) == logits["fp32"].argmax(axis=1)
    return {
        "equal_top_answers": round(float(same.mean()), 4),
        "raw_loss": {name: round(log_loss(values, task.held_out.answers), 4) for name, values in logits.items()},
    }


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    yield
    torch.set_num_threads(before)


def _busy_s() -> float:
    """CPU-seconds that every process of this machine has used so far."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


def run(task: Task, *, epochs: int, repeats: int, threads: int, tried: Sequence[int], say: Say) -> dict[str, Any]:
    """Measure everything; the encoder's precision and device are those it was opened with."""
    busy_s, wall_s, own_s = _busy_s(), time.perf_counter(), time.process_time()
    with _threads(threads):
        compared = compare(task, epochs=epochs, repeats=repeats, say=say)
    threads_tried = try_threads(task, tried=tried, repeats=repeats)
    wall_s, own_s = time.perf_counter() - wall_s, time.process_time() - own_s
    return {
        "train_rows": len(task.train.texts),
        "held_out_rows": len(task.held_out.texts),
        "labels": len(task.labels),
        "encoder": task.base.name,
        "precision": task.base.encoder.precision,
        "precision_of_this_machine": resolve_precision("auto", resolve_device("auto")),
        "threads": threads,
        **compared,
        "threads_tried": threads_tried,
        "machine": {
            "cores": psutil.cpu_count(logical=False),
            "others_busy_cores": round(max(0.0, _busy_s() - busy_s - own_s) / wall_s, 2),
        },
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="fine-tuning: rows/s and held-out loss beside transformers.Trainer")
    parser.add_argument("--data", type=Path, default=DATA, help="JSONL with text and teacher.label")
    parser.add_argument("--rows", type=int, default=600, help="training rows; the rest is held out")
    parser.add_argument("--threads", type=int, default=1, help="of both sides")
    parser.add_argument("--repeats", type=int, default=2, help="of each comparison, one seed each")
    parser.add_argument("--encoder", default=MINILM, help="minilm, or a model directory")
    parser.add_argument("--json", action="store_true", help="print the JSON object alone")
    chosen = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        task = read_task(chosen.data, BaseEncoder.open(chosen.encoder), train_rows=chosen.rows)
    except (OSError, ValueError) as error:
        print(f"nothing to train on: {error}; name other rows with --data or --rows", file=sys.stderr)  # noqa: T201 - a benchmark reports
        sys.exit(2)
    say: Say = (lambda _: None) if chosen.json else print
    result = run(
        task,
        epochs=FineTuneSettings().epochs,
        repeats=chosen.repeats,
        threads=chosen.threads,
        tried=THREADS_TRIED,
        say=say,
    )
    print(json.dumps({"data": chosen.data.name, **result}))  # noqa: T201


if __name__ == "__main__":
    main()
