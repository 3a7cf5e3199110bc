"""Seeded traffic of a smart home: what its people say, and the tool call that the teacher answers with, as JSON text.

The same seed gives the same conversations. An answer is a function of what was said, and of what the household likes,
which only the teacher knows. Some conversations go on from an earlier call; half way the house gets a new room.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from ops.demo.traffic.generate import expand, reworded, written
from ops.demo.traffic.smart_home import FOLLOWING, LATE_ROOM, LIKES, ROOMS, RULES, SYSTEM, THINGS, WISHES, Liked, Wish
from store.event import Message

_NAMED: Final = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HouseholdSettings:
    """The shape of the traffic; shares are of all conversations."""

    seed: int = 1
    rows: int = 760
    repeat_ratio: float = 0.08  # one that was had before, word by word
    near_repeat_ratio: float = 0.06  # one turn, said with a typo or another politeness
    following_ratio: float = 0.05  # one that goes on from a call for another room
    typo_ratio: float = 0.05  # of new ones
    late_ratio: float = 0.06  # of the new room, from half way on


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """One conversation and the teacher's answer to it."""

    turns: tuple[Message, ...]  # the user's, the house's, the user's: the system prompt left out
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


def call_of(wish: Wish, drawn: Mapping[str, str]) -> dict[str, Any]:
    """The tool call that a wish is.

    Args:
        wish: what is asked for.
        drawn: the things that its words name: a room, say.
    """
    return {name: _filled(value, drawn) for name, value in wish.call.items()}


def _filled(value: Any, drawn: Mapping[str, str]) -> Any:
    if isinstance(value, Liked):
        return LIKES[value.what][drawn["room"]]
    return value.format(**drawn) if isinstance(value, str) else value


def _next(earlier: Sequence[Talk], settings: HouseholdSettings, rng: Random, *, late: bool) -> Talk:
    draw = rng.random()
    if earlier and draw < settings.repeat_ratio:
        return rng.choice(earlier)
    if earlier and draw < settings.repeat_ratio + settings.near_repeat_ratio:
        again = rng.choice(earlier)
        last = Message(role="user", content=reworded(again.turns[-1].content, rng))
        return Talk(turns=(*again.turns[:-1], last), answer=again.answer)
    wish, drawn = _wish(rng, settings.late_ratio if late else 0.0)
    said = _said(wish, drawn, settings, rng)
    answer = _json(call_of(wish, drawn))
    if "room" not in drawn or rng.random() >= settings.following_ratio:
        return Talk(turns=(said,), answer=answer)
    other = rng.choice([room for room in ROOMS if room != drawn["room"]])
    following = Message(role="user", content=expand(rng.choice(FOLLOWING).replace("{room}", other), rng, RULES))
    turns = (said, Message(role="assistant", content=answer), following)
    return Talk(turns=turns, answer=_json(call_of(wish, {"room": other})))


def _json(call: Mapping[str, Any]) -> str:
    return json.dumps(call, separators=(",", ":"))


def _wish(rng: Random, late_ratio: float) -> tuple[Wish, dict[str, str]]:
    """What is asked for, and about what."""
    if rng.random() < late_ratio:
        about_rooms = [wish for wish in WISHES if "room" in wish.call]
        return rng.choice(about_rooms), {"room": LATE_ROOM}
    wish = rng.choices(WISHES, weights=[one.weight for one in WISHES])[0]
    named = {name for text in wish.says for name in _NAMED.findall(text)} & THINGS.keys()
    return wish, {name: _thing(THINGS[name], rng) for name in sorted(named)}


def _thing(things: Sequence[str], rng: Random) -> str:
    """One of them, the k-th k times as rarely as the first (Zipf)."""
    return rng.choices(things, weights=[1 / (place + 1) for place in range(len(things))])[0]


def _said(wish: Wish, drawn: Mapping[str, str], settings: HouseholdSettings, rng: Random) -> Message:
    template = rng.choice(wish.says)
    for name, thing in drawn.items():
        template = template.replace(f"{{{name}}}", thing)
    return Message(
        role="user", content=written(expand(f"{template}{{why}}{{close}}", rng, RULES), settings.typo_ratio, rng)
    )
