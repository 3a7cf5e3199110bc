"""`understudy dlq replay` and `drop`: what people decide about dead letters, each once, with who, why and when.

A replay puts the record on its topic again, unchanged, once this release and these settings would take it. The note
that it begins is written before, the note that it is done after the log has it; between the two the event's id makes a
repeat harmless. Nothing is ever deleted: a letter that was dealt with is only no longer named.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Final

import redis

from ops.exits import RefusedError
from ops.letters.reading import Choice
from ops.open_log import open_appender, open_history
from ops.reports import LetterSettled, LettersSettled
from ops.site import Site
from ops.state.run_files import read_run_file
from ops.wiring.ingest import lane_keys
from store.buffer.item import Entry
from store.buffer.repair.letters import LetterBook, LetterDecision, Settlement
from store.buffer.repair.lists import Lists
from store.errors import LogError, LogUnavailableError
from store.event import Lane, Undecodable, UnknownTask, wall_clock_s
from stream.dead_letter import DeadLetter, read_dead_letters
from stream.ingest import IngestSettings, LaneKeys, triage
from stream.log import Appender, Record, topic_of

_ACK_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be done with which letters, and who says so."""

    use_case: str
    choice: Choice
    outcome: Settlement  # of one that is to be reopened: what is taken back
    dry_run: bool
    who: str
    why: str

    def decision(self) -> LetterDecision:
        """As of now."""
        return LetterDecision(outcome=self.outcome, who=self.who, why=self.why, at_s=wall_clock_s())


def settle_letters(site: Site, order: Order) -> LettersSettled:
    """Deal with every open letter that is chosen.

    Raises:
        RefusedError: the ingest that runs here reads by older lists of labels, and would bury them again.
        StoreUnavailableError, LogUnavailableError: Redis or the log did not answer; what was done stays done, and the
            same command goes on with the rest.
    """
    with site.redis_client() as client:
        book = LetterBook(client)
        dead = site.buffer(client).dead(order.use_case)  # before the letters: one that comes meanwhile is not gone
        chosen = list(_open_ones(site, client, book, order))
        if chosen and order.outcome == "replayed" and not order.dry_run:
            _refuse_while_ingest_is_of_before(site, client, order.use_case)
        lanes = lane_keys(site, order.use_case) if chosen and order.outcome == "replayed" else {}
        with closing(open_appender(site, client)) as appender:
            found = [_settled(lanes, book, appender, order, letter) for letter in chosen]
        gone = _settle_gone(site, client, book, order, dead, chosen) if order.outcome == "dropped" else 0
    return LettersSettled(use_case=order.use_case, letters=found, gone=gone, dry_run=order.dry_run)


def _refuse_while_ingest_is_of_before(site: Site, client: redis.Redis, use_case: str) -> None:
    """Ingest learns at its start which labels there are: what it has noted tells by which it reads."""
    if read_run_file(site.run_directory, "ingest") is None:
        return  # it reads by the present ones once it starts
    newest = {held.slot: held.lists for held in Lists(client).held(use_case)}
    for section in site.lanes(None):
        present = (list(section.labels), list(site.rules(section.lane).earlier))
        read_by = [lists.get(str(section.lane)) for lists in newest.values()]
        if section.use_case == use_case and any(one is None or (one.labels, one.earlier) != present for one in read_by):
            message = (
                f"ingest was started before the labels of {section.lane} were changed, and would bury the letters"
                " again: restart it, then replay"
            )
            raise RefusedError(message)


def _open_ones(site: Site, client: redis.Redis, book: LetterBook, order: Order) -> Iterator[DeadLetter]:
    decided = book.decisions(order.use_case)
    with open_history(site, client) as history:
        for letter in read_dead_letters(history, order.use_case, site.secret):
            if order.choice.takes(letter) and letter.id not in decided:
                yield letter


def _settled(
    lanes: Mapping[Lane, LaneKeys], book: LetterBook, appender: Appender, order: Order, letter: DeadLetter
) -> LetterSettled:
    why_not = _replay(lanes, book, appender, order, letter) if order.outcome == "replayed" else None
    if why_not is None and not order.dry_run:
        book.settle(order.use_case, letter.id, letter.reason, order.decision())
    return settled(order, letter, why_not)


def settled(order: Order, letter: DeadLetter, why_not: str | None) -> LetterSettled:
    """What became of a letter that was decided on; `why_not`: why that was not done, else None."""
    return LetterSettled(
        id=letter.id,
        reason=letter.reason,
        topic=letter.topic,
        partition=letter.partition,
        offset=letter.offset,
        done=why_not is None and not order.dry_run,
        why_not=why_not,
    )


def _replay(
    lanes: Mapping[Lane, LaneKeys], book: LetterBook, appender: Appender, order: Order, letter: DeadLetter
) -> str | None:
    """Put the record on its topic again, under its question's key; why that was not done, else None."""
    try:
        value = letter.raw()
    except LogError as error:
        return str(error)
    now_ms = int(wall_clock_s() * 1000)
    record = Record(
        topic=topic_of(order.use_case),
        partition=letter.partition,
        offset=letter.offset,
        key=None,
        value=value,
        headers=(),
        timestamp_ms=now_ms,
    )
    found = triage(
        record,
        use_case=order.use_case,
        lanes=lanes,
        max_age_s=IngestSettings().max_age_s,
    )
    if isinstance(found, Undecodable):
        return f"it would die again, {found.reason}: {found.detail}"
    if isinstance(found, UnknownTask):
        return f"its task, {found.task}, is not kept by this release: its partition would stand still until the upgrade"
    if order.dry_run:
        return None
    return _append(book, appender, order, letter, record, found)


def _append(
    book: LetterBook, appender: Appender, order: Order, letter: DeadLetter, record: Record, entry: Entry
) -> str | None:
    name = letter.id
    if not book.begin(order.use_case, name, order.decision()):
        return "somebody else is at it, or was two minutes ago"
    future = appender.append(
        record.topic, key=entry.item_id.encode(), value=record.value, headers=(("replay", name.encode()),)
    )
    try:
        future.result(_ACK_S)
    except TimeoutError as error:
        message = "the log did not acknowledge a replayed record in time: run the same command again in two minutes"
        raise LogUnavailableError(message) from error
    except LogUnavailableError:
        raise  # it may be in the log: begun, and taken up again by the next try
    except LogError as error:
        book.give_up(order.use_case, name)
        return str(error)
    return None


def _settle_gone(
    site: Site, client: redis.Redis, book: LetterBook, order: Order, dead: Mapping[str, int], chosen: list[DeadLetter]
) -> int:
    """Drop what is counted and no longer in the log, where whole kinds are dropped; how many that were.

    Retention deletes letters too, and nobody could name those.
    """
    if order.choice.ids:
        return 0
    still_open = site.buffer(client).open_dead(order.use_case)
    counted = Counter(letter.reason for letter in chosen) if order.dry_run else Counter[str]()
    gone = 0
    for reason in dead:
        left = still_open.get(reason, 0) - counted[reason]
        if left > 0 and order.choice.kind in {None, reason}:
            gone += left
            if not order.dry_run:
                decision = order.decision()
                book.settle(order.use_case, f"gone:{reason}:{decision.at_s}", reason, decision, count=left)
    return gone
