"""Agreement per teacher answer of the chatting student: `python -m tests.bench.chat --model DIR [--json]`.

- learned: the recipe's first version from so many teacher answers, asked about 300 conversations that it has not seen:
  exact agreement, the area under the ROC curve of its confidence, and what is certified at 95 % on them. states_cpu_s
  is what its trained layers start from, computed once a row; train_cpu_s the training, trust_cpu_s what its confidence
  is learned by.
- stream: conversations in turn through the budget's own rules (`store.policy`); the student is trained as answers are
  bought, by the schedule (`trainer.due`), and every answer is scored: a bought one agrees. Beside it the same with
  answers bought at random; until there is a student every answer is bought, either way.

Prints one JSON object as its last line. The data are calls of a bank's tools, one JSON object an answer; on a busy
machine read cpu seconds.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch

from serve.routing.pace import RECENT
from store.buffer.item import Entry, Item, merge
from store.control import CycleKind, TrainingState
from store.event import ChatAnswer, ChatEscalation, ChatInput, EscalationCause, Lane, Message, new_event_id, utc
from store.policy import Allowance, escalation_limit, outright_calls
from store.registry.moves import Standing
from store.secrets import DataSecret, item_id
from store.student.chat.chatter import Chatter
from store.student.encoder import Precision
from store.tasks.chat import ChatRules, ChatTerms
from store.tasks.tasks import LaneTerms
from trainer.attempt import freeze_rows
from trainer.due import ScheduleSettings, after, due
from trainer.judge.calibrate import certify
from trainer.judge.gate import GateLimits
from trainer.learn.chat.freezing import FrozenChats
from trainer.learn.chat.recipe import RECIPE, frozen_chats
from trainer.learn.features import BaseEncoder
from trainer.learn.recipe import Lineage, Rival
from trainer.learn.tasks import TASKS
from trainer.snapshot import SplitSettings
from trainer.work import CycleSettings, LaneTraining, tell_nobody

DATA: Final = Path(__file__).parents[3] / "shared" / "data" / "tool_chat.jsonl"
_LANE: Final = Lane("bench", "chat")
_SECRET: Final = DataSecret(bytes(32))
_PROMPT: Final = "none"
_NOW_S: Final = 1_800_000_000.0
_HELD_OUT: Final = 300
_BLOCK: Final = 20  # rows that are answered together
_TARGET: Final = 0.95
_WORDS: Final = 64  # tokens that the small encoder reads

Floats = npt.NDArray[np.float64]
Way = Literal["ours", "random"]
COLD: Final = Lineage(champion=None, anchor=None, history=[], records={})
SCHEDULE: Final = ScheduleSettings(
    tick_s=1.0,
    every_s=1e9,
    min_new_labels=30,
    growth_ratio=0.04,
    fine_tune=True,
    fine_tune_growth_ratio=1.5,
    lease_s=30.0,
    cycle_timeout_s=1e9,
    head_first=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """A conversation with the teacher's answer, as an item of the buffer."""

    item: Item
    text: str


class Bench:
    """The lane that everything runs in."""

    def __init__(self, model: Path, encoder: str, cache: Path, *, precision: Precision, seed: int) -> None:
        """Load what students stand on.

        Args:
            model: the decoder's folder.
            encoder: the small encoder's, or `minilm`.
            cache: where states are kept.
            precision: of both.
            seed: of the trainings.
        """
        self.settings = CycleSettings(
            encoder=encoder,
            model=str(model),
            device="auto",
            precision=precision,
            threads=1,
            max_tokens=_WORDS,
            seed=seed,
            min_items_per_label=1,
            quarantine_s=0.0,
            novelty_quantile=0.99,
            split=SplitSettings(salt="bench", calibrate_ratio=0.0, judge_ratio=0.0),
            limits=GateLimits(delta=0.02, min_rows=1),
        )
        self.training = LaneTraining(
            lane=_LANE,
            task="chat",
            prompt_version=f"teacher@{_PROMPT}",
            target=_TARGET,
            confidence=0.95,
            policy="budget",
            terms=LaneTerms(chat=ChatTerms(max_answer_tokens=48)),
        )
        self._base = BaseEncoder.open(encoder, precision=precision, max_tokens=_WORDS)
        self._cache = cache

    def frozen(self, talks: Sequence[Talk]) -> FrozenChats:
        """The rows of a cycle."""
        return frozen_chats(
            freeze_rows(
                [talk.item for talk in talks],
                COLD,
                training=self.training,
                settings=self.settings,
                base=self._base,
                features=RECIPE.cache(self._cache / "t" / "u", tell_nobody),
                now_s=_NOW_S,
                positions={},
            )
        )

    def cycle(self, kind: CycleKind, talks: Sequence[Talk], champion: Rival | None) -> tuple[Rival, dict[str, float]]:
        """A student of these rows, and the cpu seconds that its parts took."""
        rows, marks = self.frozen(talks), {"begun": time.process_time()}

        def tell(stage: str, _done: float | None) -> None:
            marks.setdefault(stage, time.process_time())

        lineage = replace(COLD, champion=champion)
        draft = RECIPE.fit(kind, rows, lineage, settings=self.settings, tell=tell)
        ended = time.process_time()
        rival = Rival(student=draft.student(), trained=frozenset(row.item_id for row in rows.snapshot.rows))
        trained = marks.get("fine_tuning", marks["fitting"])  # a head cycle trains nothing
        took = {
            "states_cpu_s": trained - marks["begun"],
            "train_cpu_s": marks["fitting"] - trained,
            "trust_cpu_s": ended - marks["fitting"],
        }
        return rival, took

    def asked(self, student: Chatter, talks: Sequence[Talk]) -> tuple[Floats, Floats]:
        """Confidence and agreement on rows that the student has not seen, in their order."""
        rows = self.frozen(talks)
        found = rows.scored(student, range(len(rows.snapshot.rows)), np.ones(len(rows.snapshot.rows)))
        place = {row.item_id: at for at, row in enumerate(rows.snapshot.rows)}
        order = [place[talk.item.item_id] for talk in talks]
        return found.confidence[order], found.agreed[order]


def learned(bench: Bench, talks: Sequence[Talk], held: Sequence[Talk]) -> dict[str, Any]:
    """What the first version of these rows says to the held-out ones."""
    rival, took = bench.cycle("fine_tune", talks, None)
    assert isinstance(rival.student, Chatter)
    began = time.process_time()
    sure, right = bench.asked(rival.student, held)
    found = certify(sure, right, np.ones(len(held)), target=_TARGET, confidence=0.95, seed=0)
    return {
        "agreement": round(float(right.mean()), 4),
        "auroc": round(auroc(sure, right > 0.5), 4),
        "certified_coverage": round(found.coverage_ratio, 4) if found is not None else 0.0,
        "ask_cpu_s": round(time.process_time() - began, 1),
        **{name: round(value, 1) for name, value in took.items()},
    }


def play(bench: Bench, talks: Sequence[Talk], way: Way, *, calls: int, seed: int) -> dict[str, Any]:
    """Answer every row in its turn, and learn in between."""
    rng, state, champion = np.random.default_rng(seed), TrainingState(), None
    recent: deque[float] = deque(maxlen=RECENT)
    bought: list[Talk] = []
    agreed, cycles, began = 0.0, list[str](), time.process_time()
    for start in range(0, len(talks), _BLOCK):
        block = talks[start : start + _BLOCK]
        sure, right = np.zeros(len(block)), np.zeros(len(block))
        if champion is not None and isinstance(champion.student, Chatter):
            sure, right = bench.asked(champion.student, block)
        for at, talk in enumerate(block):
            recent.append(1.0 - float(sure[at]))
            allowance = Allowance(
                calls_left=calls - len(bought),
                rows_left=len(talks) - start - at,
                bought=len(bought),
                first=outright_calls(calls, len(talks)),
            )
            if allowance.calls_left > 0 and (champion is None or _buys(way, allowance, recent, rng)):
                bought.append(talk)
                agreed += 1.0
            else:
                agreed += float(right[at])
        kind = due(
            Standing(champion="version" if champion is not None else None),
            state,
            items=len(bought),
            labels=0,
            request=None,
            now_s=_NOW_S,
            settings=SCHEDULE,
            ripe=TASKS["chat"].ripe,
        )
        if kind is not None:
            champion, _ = bench.cycle(kind, bought, champion)
            cycles.append(f"{kind}@{len(bought)}")
            state = after(state, kind, items=len(bought), label_items={"answers": len(bought)}, now_s=_NOW_S)
    return {
        "agreement": round(agreed / len(talks), 4),
        "calls": len(bought),
        "cpu_s": round(time.process_time() - began, 1),
        "cycles": cycles,
    }


def _buys(way: Way, allowance: Allowance, recent: Sequence[float], rng: np.random.Generator) -> bool:
    if way == "random":
        return bool(rng.random() < allowance.calls_left / allowance.rows_left)
    return allowance.outright or recent[-1] >= escalation_limit(recent, allowance)


def auroc(sure: Floats, right: npt.NDArray[np.bool_]) -> float:
    """Chance that an answer that agrees is surer than one that does not."""
    if right.all() or not right.any():
        return float("nan")
    apart = np.sign(np.subtract.outer(sure[right], sure[~right]))
    return float((apart.mean() + 1.0) / 2.0)


def read_talks(path: Path) -> list[Talk]:
    """The rows of a log of conversations with a teacher's text; a question that came before is left out."""
    rng, rules, found = Random(0), ChatRules(), dict[str, Talk]()
    for line in path.read_text("utf-8").splitlines():
        row = json.loads(line)
        messages = [Message(role=one["role"], content=one["content"]) for one in row["messages"]]
        event = ChatEscalation(
            id=new_event_id(_NOW_S - 1e6, rng),
            time=utc(_NOW_S - 1e6),
            use_case=_LANE.use_case,
            tenant=_LANE.tenant,
            student=None,
            escalation=EscalationCause(reason="cold", threshold=None, propensity=1.0),
            input=ChatInput(messages=messages),
            teacher=ChatAnswer(model="teacher", prompt_version=_PROMPT, text=row["teacher"]["text"]),
        )
        kept = rules.normal(event, bytes(32))
        item, _ = merge(None, Entry.of(kept, item_id(_SECRET.lane_key(_LANE), rules, kept.input), rules))
        if item is not None:
            found.setdefault(item.item_id, Talk(item=item, text=row["teacher"]["text"]))
    return list(found.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it all and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--model", type=Path, required=True, help="folder of a decoder, SmolLM2-135M-Instruct say")
    parser.add_argument("--encoder", default="minilm", help="a model directory; default: the wheel's")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--answers", type=int, nargs="*", default=[200, 800])
    parser.add_argument("--rows", type=int, default=2000, help="of the stream; 0: none is played")
    parser.add_argument("--calls", type=int, default=600)
    parser.add_argument("--ways", nargs="*", choices=("ours", "random"), default=("ours", "random"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--cache", type=Path, help="where states are kept for the next run; default: nowhere")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    if not asked.data.is_file():
        sys.stderr.write(f"{asked.data}: no such file; name a log of conversations with --data\n")
        return 2
    torch.set_num_threads(1)
    result: dict[str, Any] = {"seeds": asked.seeds, "learned": {}, "stream": {}}
    with tempfile.TemporaryDirectory() as temporary:
        for seed in range(asked.seeds):
            talks = read_talks(asked.data)
            Random(seed).shuffle(talks)
            bench = Bench(
                asked.model, asked.encoder, asked.cache or Path(temporary), precision=asked.precision, seed=seed
            )
            for answers in asked.answers:
                found = learned(bench, talks[:answers], talks[-_HELD_OUT:])
                result["learned"].setdefault(str(answers), []).append(found)
                _say(asked.json, f"seed {seed}, {answers} answers: {found}")
            for way in asked.ways if asked.rows else ():
                found = play(bench, talks[: asked.rows], way, calls=asked.calls, seed=seed)
                result["stream"].setdefault(f"{way}@{asked.calls}/{asked.rows}", []).append(found)
                _say(asked.json, f"seed {seed}, {way}: {found}")
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


def _say(quiet: bool, what: str) -> None:  # noqa: FBT001 - of this file
    if not quiet:
        sys.stdout.write(f"{what}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
