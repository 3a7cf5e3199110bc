"""What the commands on data answer; `-o json` prints these as they are."""

from typing import Any

import msgspec

from store.event import Task


class Differing(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is there but not as it should be: an item, or a lane's counters."""

    what: str
    fields: list[str]


class RecomputeReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `verify --recompute` found of one version."""

    ok: bool
    lane: str
    version: str
    rows: int  # held out, scored anew
    tolerance: float  # within which a number comes out
    differing: list[str]  # a sentence for each signed number that does not


class VerifyReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `verify` found. Lists are cut at 100 entries; the numbers beside them are whole."""

    ok: bool
    from_offset: int  # 0: every partition was read from its beginning
    complete: bool  # false when retention has cut the beginning: then only what must be there is looked for
    offsets: dict[str, str]  # "topic uuid/partition" -> position up to which the log had been applied
    records: int  # read from the log
    expected: int  # items
    found: int
    missing: list[str]
    extra: list[str]
    differing: list[Differing]
    wrong: int  # missing, extra and differing together
    damaged: list[str]  # values that were found damaged and not mended: `understudy buffer rebuild` mends them
    skipped: list[str]  # decisions to read on elsewhere, each with what was never read, or read again
    in_motion: int  # items that were asked about while we looked: compared within bounds
    chain_ok: bool
    signatures_ok: bool
    versions_ok: bool
    versions: int
    moves: int
    problems: list[str]  # of versions, moves, rulings and decisions about dead letters, for a person
    lost: list[str] = []  # what the champions were made from and neither log nor buffer knows of any more
    rulings: int = 0
    letters_ok: bool = (
        True  # every decision about a dead letter that is noted was signed, and every signed one is noted
    )
    letters: int = 0  # signed decisions about dead letters
    letters_unsigned: int = (
        0  # notes of an earlier release, which did not sign: the next decision says they are genuine
    )


class ImportReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the file."""

    lane: str
    path: str
    columns: dict[str, str]  # where what was found: text, label; query, documents, scores
    rows: int
    published: int
    skipped: int
    ingested: bool | None  # None: nothing was published
    cycle_asked: bool
    bad: list[dict[str, Any]]  # the first 20: line and why
    notes: list[str]  # what is to be known of the rows as a whole, a sentence each: what was read, and what was assumed
    dry_run: bool = False


class ProducerShown(msgspec.Struct, frozen=True, kw_only=True):
    """What another producer's events of a lane must name."""

    tenant: str
    use_case: str
    task: Task
    topic: str
    model: str
    prompt_version: str
    labels: list[str]


class LetterShown(msgspec.Struct, frozen=True, kw_only=True):
    """One dead letter."""

    id: str  # what `dlq show`, `replay` and `drop` take, or the beginning of it
    use_case: str
    tenant: str | None  # None: not readable, or none of the settings'
    reason: str
    detail: str
    topic: str
    partition: int
    offset: int
    time: str  # when the log took the record, RFC 3339
    size_bytes: int
    state: str  # open, replayed or dropped


class LetterKind(msgspec.Struct, frozen=True, kw_only=True):
    """The dead letters of one reason, with the newest as an example."""

    use_case: str
    tenant: str | None
    reason: str
    total: int = 0
    open: int = 0
    replayed: int = 0
    dropped: int = 0
    newest: str = ""  # RFC 3339
    example: str = ""  # its id
    detail: str = ""


class DeadLetterReport(msgspec.Struct, frozen=True, kw_only=True):
    """The dead letters of some use cases."""

    total: int
    by_reason: dict[str, int]
    kinds: list[LetterKind]
    letters: list[LetterShown]  # the newest of each use case, oldest first


class LetterOpened(msgspec.Struct, frozen=True, kw_only=True):
    """One dead letter with its content, and what was decided about it."""

    letter: LetterShown
    content: str | None  # redacted, and cut after 4,000 characters
    why_no_content: str | None
    who: str | None
    why: str | None
    at_s: float | None  # Unix seconds
    decision: int | None = None  # its number among the signed ones; None: there is none, or an earlier release made it


class DecisionShown(msgspec.Struct, frozen=True, kw_only=True):
    """One signed decision about dead letters."""

    use_case: str
    number: int
    kind: str  # replay, drop, reopen; adopt: earlier releases' notes were found genuine
    who: str
    why: str
    at_s: float  # Unix seconds
    letters: list[str]  # their ids
    gone: dict[str, int]  # reason -> letters that the log no longer had


class LetterSettled(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one letter that was to be replayed or dropped."""

    id: str
    reason: str
    topic: str
    partition: int
    offset: int
    done: bool
    why_not: str | None  # None on a dry run: it would be done


class LettersSettled(msgspec.Struct, frozen=True, kw_only=True):
    """What became of all of them."""

    use_case: str
    letters: list[LetterSettled]
    gone: int  # dropped by number: the log's retention has deleted them
    dry_run: bool
    noted_again: int = 0  # earlier decisions that were signed, and in Redis noted otherwise or not at all


class PartitionLag(msgspec.Struct, frozen=True, kw_only=True):
    """How far ingest is behind in one partition."""

    use_case: str
    topic: str
    partition: int
    position: str  # to read next; -1: it has not begun
    begin: int  # of what the log keeps
    end: int
    lag_records: int  # at most: a log may have gaps
    oldest_unread: str | None  # when the log took it, RFC 3339; None where there is none, or it cannot be read


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """One partition that read on, or would, because a person says so."""

    topic: str
    partition: int
    position: str  # the stored one
    begin: int  # of what the log keeps
    end: int
    to: str  # where it reads on
    never_read: int  # records at most: those that had been deleted count, too
    read_again: int  # records at most; one whose id is among its question's newest 32 is recognised and not counted
    why_stopped: str
    done: bool  # false: only shown


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one lane's part of the buffer."""

    lane: str
    complete: bool  # the log reaches back to its first record: all was worked out anew
    records: int  # read from the log
    damaged: list[str]  # what had been found damaged
    mended: int  # items that were written from the log
    lost: list[str]  # damaged items of which the log no longer has a record
    items_before: int
    items_after: int
    done: bool  # false: only shown
    dropped: dict[str, int] = {}  # label -> items that go: the label is off every list known to have held, and no rule
