"""`understudy dlq replay` and `drop`: what people decide about dead letters, each once, signed with who and why.

A replay puts the record on its topic again, unchanged, once this release and these settings would take it. The note
that it begins is written before; that it is done is signed and noted after the log has it; between the two the event's
id makes a repeat harmless. Nothing is ever deleted: a letter that was dealt with is only no longer named.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
from store.buffer.repair.lists import Lists
from store.errors import LogError, LogUnavailableError
from store.event import Lane, Undecodable, UnknownTask, wall_clock_s
from store.letters.deciding import Deciding
from store.letters.decisions import MOST_LETTERS, LetterDecision, LetterMove, Settlement
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
    why: str

    @property
    def kind(self) -> LetterMove:
        """As which it is signed."""
        return "replay" if self.outcome == "replayed" else "drop"


def settle_letters(site: Site, order: Order) -> LettersSettled:
    """Deal with every open letter that is chosen.

    Raises:
        RefusedError: the ingest that runs here reads by older lists of labels, and would bury them again.
        SettingsError, RegistryError: there is no operator's key, or decisions do not verify or cannot be written.
        StoreUnavailableError, LogUnavailableError: Redis or the log did not answer; what was done stays done, and the
            same command goes on with the rest.
    """
    with site.redis_client() as client:
        deciding = site.deciding(client, order.use_case)
        if not order.dry_run:
            _ = deciding.key  # before a record is put on its topic that nobody could sign for
        noted_again = 0 if order.dry_run else deciding.put_right()
        dead = site.buffer(client).dead(order.use_case)  # before the letters: one that comes meanwhile is not gone
        chosen = list(_open_ones(site, client, deciding, order))
        if chosen and order.outcome == "replayed" and not order.dry_run:
            _refuse_while_ingest_is_of_before(site, client, order.use_case)
        lanes = lane_keys(site, order.use_case) if chosen and order.outcome == "replayed" else {}
        with closing(open_appender(site, client)) as appender:
            found = [one for part in _parts(chosen) for one in _settled(lanes, deciding, appender, order, part)]
        gone = _gone(site, client, order, dead, chosen) if order.outcome == "dropped" else {}
        if gone and not order.dry_run:
            deciding.settle(order.kind, {}, gone, why=order.why)
    return LettersSettled(
        use_case=order.use_case,
        letters=found,
        gone=sum(gone.values()),
        dry_run=order.dry_run,
        noted_again=noted_again,
    )


def _parts(letters: Sequence[DeadLetter]) -> Iterator[Sequence[DeadLetter]]:
    """As many letters as one signature holds, again and again: a kill leaves no more than these half dealt with."""
    return (letters[start : start + MOST_LETTERS] for start in range(0, len(letters), MOST_LETTERS))


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


def _open_ones(site: Site, client: redis.Redis, deciding: Deciding, order: Order) -> Iterator[DeadLetter]:
    decided = deciding.book.decisions(order.use_case)
    with open_history(site, client) as history:
        for letter in read_dead_letters(history, order.use_case, site.secret):
            if order.choice.takes(letter) and letter.id not in decided:
                yield letter


def _settled(
    lanes: Mapping[Lane, LaneKeys], deciding: Deciding, appender: Appender, order: Order, letters: Sequence[DeadLetter]
) -> list[LetterSettled]:
    """Do what is ordered with some letters, then sign and note that it was done."""
    why_not = {
        one.id: _replay(lanes, deciding, appender, order, one) if order.outcome == "replayed" else None
        for one in letters
    }
    done = {one.id: one.reason for one in letters if why_not[one.id] is None}
    if done and not order.dry_run:
        deciding.settle(order.kind, done, {}, why=order.why)
    return [settled(order, one, why_not[one.id]) for one in letters]


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
    lanes: Mapping[Lane, LaneKeys], deciding: Deciding, appender: Appender, order: Order, letter: DeadLetter
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
    return _append(deciding, appender, order, letter, record, found)


def _append(
    deciding: Deciding, appender: Appender, order: Order, letter: DeadLetter, record: Record, entry: Entry
) -> str | None:
    name, who = letter.id, deciding.key.name
    begun = LetterDecision(outcome=order.outcome, who=who, why=order.why, at_s=wall_clock_s())
    if not deciding.book.begin(order.use_case, name, begun):
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
        deciding.book.give_up(order.use_case, name)
        return str(error)
    return None


def _gone(
    site: Site, client: redis.Redis, order: Order, dead: Mapping[str, int], chosen: list[DeadLetter]
) -> dict[str, int]:
    """What is counted and no longer in the log, by reason, where whole kinds are dropped.

    Retention deletes letters too, and nobody could name those.
    """
    if order.choice.ids:
        return {}
    still_open = site.buffer(client).open_dead(order.use_case)
    counted = Counter(letter.reason for letter in chosen) if order.dry_run else Counter[str]()
    left = {reason: still_open.get(reason, 0) - counted[reason] for reason in dead}
    return {reason: count for reason, count in left.items() if count > 0 and order.choice.kind in {None, reason}}
