"""What a person decides about single questions: what the right answer is, or that nothing is learned from them.

Nothing in the buffer is written. What is signed is applied wherever kept answers are read, so that it outlives a replay
of the log, a rebuild, an eviction, and the same question asked again.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec
import redis

from ops.answers.kept import Kept, LaneItems, Selection
from ops.answers.reading import Reading
from ops.exits import RefusedError
from ops.rulings.decision import DraftRuling, sign
from ops.sections import LaneSection
from ops.site import Site
from ops.wiring.train import cycle_settings, lane_training
from store.answers.rulings import MOST_ANSWER_BYTES, MOST_ITEMS
from store.errors import InvalidAnswerError, TooLaboriousError, WrongShapeError
from store.event import new_event_id, utc
from store.tasks.rules import Moment
from trainer.snapshot import Split, SplitSettings, split_of
from trainer.work import held_out

_LISTED: Final = 100
_WORDS: Final = 120  # characters of a question, in a report
_MOST_LINE_BYTES: Final = 4 << 20


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """One question that was decided about, or would be."""

    item: str
    question: str  # its beginning, redacted
    split: Split  # by its own id; decisions never move it
    before: list[Any]  # the answers that counted
    after: Any = None  # null: none, it is dropped


class ByHand(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided about questions, or would be."""

    lane: str
    kind: str
    rulings: list[int]  # their numbers; none: nothing was signed
    total: int
    questions: list[Changed]  # the first 100
    unchanged: int  # named with the answer that they have
    done: bool  # false: only shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """An answer that a person gives."""

    item: str  # its id, or the beginning of one
    answer: Any  # as `TaskRules.by_hand` takes it


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decision:
    """What is to be signed about one question."""

    one: Kept
    said: str | None  # as the item counts it; None: dropped


class _Row(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a file of answers: as `understudy buffer export` writes them, or these two fields alone."""

    item: str
    answer: Any = None


def given_in(path: Path) -> list[Given]:
    """The answers in a JSONL file; lines without one are left out.

    Raises:
        RefusedError: a line is no JSON object with an `item`; the message names it.
    """
    found: list[Given] = []
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(_MOST_LINE_BYTES), b""), start=1):
                if line.strip() and (row := _row(line, number, path)).answer is not None:
                    found.append(Given(item=row.item, answer=row.answer))
    except OSError as error:
        message = f"--file {path}: {error.strerror}"
        raise RefusedError(message) from error
    if not found:
        message = f"--file {path}: no line has an answer"
        raise RefusedError(message)
    return found


def _row(line: bytes, number: int, path: Path) -> _Row:
    try:
        return msgspec.json.decode(line, type=_Row)
    except (msgspec.MsgspecError, UnicodeError) as error:
        message = f"--file {path}, line {number}: a JSON object with item and answer is wanted: {error}"
        raise RefusedError(message) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Who decides, and why."""

    why: str
    now_s: float  # Unix seconds
    dry_run: bool


def correct(
    site: Site, client: redis.Redis, section: LaneSection, given: Sequence[Given], order: Order, *, edited: bool = False
) -> ByHand:
    """Say what the right answers are.

    Args:
        site: whose rulings.
        client: of its Redis.
        section: the lane.
        given: questions, each once, with their answers.
        order: who says so.
        edited: they are the rows of an export: what is there as it was written is left, contradictions too.

    Raises:
        RefusedError: a question is not kept, an answer is none of the lane's, or all are as they were.
        MoveConflictError: somebody else has decided meanwhile.
        StoreUnavailableError: Redis does not answer.
        RegistryError, SettingsError: the rulings do not verify, or cannot be written.
    """
    lane = LaneItems.of(site, client, section, order.now_s)
    names = Selection(ids=frozenset(one.item for one in given))
    by_name = {name: kept for kept in lane.chosen(names) for name in names.named(kept.item.item_id)}
    if len({kept.item.item_id for kept in by_name.values()}) != len(given):
        message = "a question is named twice"
        raise RefusedError(message)
    key, rng = site.secret.redaction_key(section.lane), Random()  # noqa: S311 - ids
    changing = []
    for one in given:
        if edited and one.answer == lane.answer(by_name[one.item]):
            continue
        moment = Moment(time=utc(order.now_s), event_id=new_event_id(order.now_s, rng), redaction_key=key)
        decision = _Decision(one=by_name[one.item], said=_said(lane, by_name[one.item], one, moment))
        if not _as_it_is(lane, decision):
            changing.append(decision)
    if not changing:
        message = "every answer is as it is read already: nothing is to be corrected"
        raise RefusedError(message)
    return _decided(site, lane, "correct", changing, order, unchanged=len(given) - len(changing))


def drop(site: Site, client: redis.Redis, section: LaneSection, selection: Selection, order: Order) -> ByHand:
    """Learn from some questions no more, and judge by them no more; errors as of `correct`."""
    lane = LaneItems.of(site, client, section, order.now_s)
    found = [_Decision(one=one, said=None) for one in lane.chosen(selection) if one.state != "dropped"]
    if not found:
        message = "no kept question is meant, or all of them are dropped already: `understudy buffer show` names them"
        raise RefusedError(message)
    return _decided(site, lane, "drop", found, order, unchanged=0)


def _said(lane: LaneItems, one: Kept, given: Given, moment: Moment) -> str:
    try:
        said = lane.rules.by_hand(one.item.input, given.answer, moment)
    except (InvalidAnswerError, WrongShapeError, TooLaboriousError) as error:
        message = f"{one.item.item_id}: {error}"
        raise RefusedError(message) from error
    if len(msgspec.json.encode(said)) > MOST_ANSWER_BYTES:
        message = f"{one.item.item_id}: an answer of more than {MOST_ANSWER_BYTES} bytes cannot be signed"
        raise RefusedError(message)
    return said


def _as_it_is(lane: LaneItems, decision: _Decision) -> bool:
    """Whether a correction says what is read anyhow."""
    said = decision.said or ""
    shown = [one.answer for one in lane.answers_shown(decision.one.answers)]
    return bool(shown) and all(one == lane.rules.shown(said) for one in shown)


def _decided(
    site: Site, lane: LaneItems, kind: Any, decisions: Sequence[_Decision], order: Order, *, unchanged: int
) -> ByHand:
    """Sign, in as few rulings as hold them."""
    section, numbers = lane.section, list[int]()
    if not order.dry_run:
        key, chain = site.operator_key(), site.registry.rulings(section.lane)
        for draft in _drafts(kind, decisions):
            expected = len(lane.rulings) + len(numbers) + 1
            numbers.append(sign(draft, chain, key, why=order.why, now_s=order.now_s, expected=expected).number)
    training = lane_training(site.settings, section, Reading.of(section))
    held = held_out(training, cycle_settings(site.settings))
    return ByHand(
        lane=str(section.lane),
        kind=kind,
        rulings=numbers,
        total=len(decisions),
        questions=[_changed(lane, one, held) for one in decisions[:_LISTED]],
        unchanged=unchanged,
        done=not order.dry_run,
    )


def _changed(lane: LaneItems, decision: _Decision, split: SplitSettings) -> Changed:
    item = decision.one.item
    return Changed(
        item=item.item_id,
        question=lane.rules.words(item.input)[:_WORDS],
        split=split_of(split, item.item_id),
        before=[one.answer for one in lane.answers_shown(decision.one.answers)],
        after=None if decision.said is None else lane.rules.shown(decision.said),
    )


def _drafts(kind: Any, decisions: Iterable[_Decision]) -> Iterator[DraftRuling]:
    """Rulings that each hold as many decisions as one may."""
    left = iter(decisions)
    while batch := list(islice(left, MOST_ITEMS)):
        while batch:
            fitting = _fitting(batch)
            answers = {one.one.item.item_id: one.said for one in batch[:fitting] if one.said is not None}
            dropped = tuple(one.one.item.item_id for one in batch[:fitting] if one.said is None)
            yield DraftRuling(kind=kind, answers=answers, dropped=dropped, items=fitting)
            batch = batch[fitting:]


def _fitting(batch: Sequence[_Decision]) -> int:
    """How many of them, from the first on, one ruling holds; at least one."""
    size = 0
    for count, one in enumerate(batch):
        size += len(msgspec.json.encode(one.said)) + len(one.one.item.item_id) + 8
        if size > MOST_ANSWER_BYTES and count:
            return count
    return len(batch)
