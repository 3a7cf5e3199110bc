"""Seeded traffic of a smart home: what its people say, and the tool call that the teacher answers with, as JSON text.

The same seed gives the same conversations. An answer follows from what was said, and holds what the household likes:
that the teacher alone knows. Some conversations take an earlier call back; half way the house gets a greenhouse.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from ops.demo.traffic.generate import expand, reworded, written
from ops.demo.traffic.smart_home import LATE, RULES, SYSTEM, UNDO, WISHES, Wish
from store.event import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class HouseholdSettings:
    """The shape of the traffic; shares are of all conversations."""

    seed: int = 1
    rows: int = 760
    repeat_ratio: float = 0.08  # one that was had before, word by word
    near_repeat_ratio: float = 0.06  # one turn, said with a typo or another politeness
    undo_ratio: float = 0.04  # of new ones that can be taken back
    typo_ratio: float = 0.05  # of new ones
    late_ratio: float = 0.06  # of the greenhouse, from half way on


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """One conversation and the teacher's answer to it."""

    turns: tuple[Message, ...]  # the user's, or the user's, the house's and the user's: the system prompt left out
    answer: str  # JSON

    @property
    def messages(self) -> list[Message]:
        """As a client sends it."""
        return [Message(role="system", content=SYSTEM), *self.turns]


def generate(settings: HouseholdSettings) -> list[Talk]:
    """The conversations in the order in which they are had. Pure: the same settings give the same ones."""
    rng = Random(f"understudy-household/{settings.seed}")  # noqa: S311 - traffic, no cryptography
    found: list[Talk] = []
    for index in range(settings.rows):
        found.append(_next(found, settings, rng, late=2 * index >= settings.rows))
    return found


def to_jsonl(talks: Sequence[Talk]) -> Iterator[str]:
    """The conversations as the lines of a file that `make demo TASK=chat TRAFFIC=` reads back."""
    for one in talks:
        messages = [{"role": turn.role, "content": turn.content} for turn in one.messages]
        yield json.dumps({"messages": messages, "teacher": {"text": one.answer}}, ensure_ascii=False)


def _next(earlier: Sequence[Talk], settings: HouseholdSettings, rng: Random, *, late: bool) -> Talk:
    draw = rng.random()
    if earlier and draw < settings.repeat_ratio:
        return rng.choice(earlier)
    if earlier and draw < settings.repeat_ratio + settings.near_repeat_ratio:
        again = rng.choice(earlier)
        last = Message(role="user", content=reworded(again.turns[-1].content, rng))
        return Talk(turns=(*again.turns[:-1], last), answer=again.answer)
    wish = _wish(settings.late_ratio if late else 0.0, rng)
    said = Message(role="user", content=_said(wish, settings, rng))
    answer = _json(wish.call)
    if wish.undone is None or rng.random() >= settings.undo_ratio:
        return Talk(turns=(said,), answer=answer)
    undo = Message(role="user", content=expand(rng.choice(UNDO), rng, RULES))
    turns = (said, Message(role="assistant", content=answer), undo)
    return Talk(turns=turns, answer=_json(WISHES[wish.undone].call))


def _wish(late_ratio: float, rng: Random) -> Wish:
    if rng.random() < late_ratio:
        return LATE
    wishes = list(WISHES.values())
    return rng.choices(wishes, weights=[one.weight for one in wishes])[0]


def _said(wish: Wish, settings: HouseholdSettings, rng: Random) -> str:
    return written(expand(f"{rng.choice(wish.says)}{{close}}", rng, RULES), settings.typo_ratio, rng)


def _json(call: Mapping[str, Any]) -> str:
    return json.dumps(call, separators=(",", ":"))
