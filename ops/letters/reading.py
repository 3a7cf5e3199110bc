"""`understudy dlq list` and `show`: which records will never become items, and why; of what they hold, redacted.

`list` shows nothing of their content. `show` opens one letter, for a person who has to mend a producer.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from ops.exits import RefusedError
from ops.open_log import open_history
from ops.reports import DeadLetterReport, DecisionShown, LetterKind, LetterOpened, LetterShown
from ops.site import Site
from store.buffer.repair.letters import LetterBook
from store.errors import LogError, TooLaboriousError
from store.event import Lane
from store.letters.decisions import LetterDecision
from store.redact import redact
from store.secrets import subject_token
from stream.dead_letter import DeadLetter, read_dead_letters

_SHOWN_CHARS: Final = 4000
_SHOWN_BYTES: Final = 64 << 10  # of a letter's content, before it is redacted


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which letters are meant; all of a use case's open ones where nothing is said."""

    ids: tuple[str, ...] = ()  # each, or the beginning of it
    kind: str | None = None  # a reason

    def takes(self, letter: DeadLetter) -> bool:
        """Whether this one is."""
        named = not self.ids or any(letter.id.startswith(one) for one in self.ids)
        return named and self.kind in {None, letter.reason}


def list_letters(site: Site, use_cases: list[str], limit: int, choice: Choice | None = None) -> DeadLetterReport:
    """Read the dead-letter topics; of each use case the newest `limit` letters are listed.

    Raises:
        StoreUnavailableError, LogUnavailableError: Redis or the log did not answer.
    """
    wanted = choice or Choice()
    kinds: dict[tuple[str, str, str], LetterKind] = {}
    letters: list[LetterShown] = []
    with site.redis_client() as client, open_history(site, client) as history:
        for use_case in use_cases:
            decided = LetterBook(client).decisions(use_case)
            newest: deque[LetterShown] = deque(maxlen=limit)
            for letter in read_dead_letters(history, use_case, site.secret):
                if wanted.takes(letter):
                    shown = letter_shown(use_case, letter, decided.get(letter.id))
                    newest.append(shown)
                    key = (use_case, letter.tenant, letter.reason)
                    kinds[key] = _counted(kinds.get(key), shown)
            letters += newest
    by_reason: dict[str, int] = {}
    for kind in kinds.values():
        by_reason[kind.reason] = by_reason.get(kind.reason, 0) + kind.total
    return DeadLetterReport(
        total=sum(by_reason.values()), by_reason=by_reason, kinds=list(kinds.values()), letters=letters
    )


def open_letter(site: Site, use_cases: list[str], name: str) -> LetterOpened:
    """One letter with its content, redacted.

    Raises:
        RefusedError: no letter begins with that name, or more than one does.
        StoreUnavailableError, LogUnavailableError: Redis or the log did not answer.
    """
    found: list[tuple[str, DeadLetter]] = []
    with site.redis_client() as client, open_history(site, client) as history:
        for use_case in use_cases:
            letters = read_dead_letters(history, use_case, site.secret)
            found += [(use_case, letter) for letter in letters if Choice(ids=(name,)).takes(letter)]
        if len(found) != 1:
            message = f"{len(found)} dead letters begin with {name}, one is wanted: `understudy dlq list` names all"
            raise RefusedError(message)
        use_case, letter = found[0]
        decision = LetterBook(client).decisions(use_case).get(letter.id)
    content, why_not = _content(site, use_case, letter)
    return LetterOpened(
        letter=letter_shown(use_case, letter, decision),
        content=content,
        why_no_content=why_not,
        who=decision.who if decision else None,
        why=decision.why if decision else None,
        at_s=decision.at_s if decision else None,
        decision=decision.number if decision else None,
    )


def list_decisions(site: Site, use_cases: list[str]) -> list[DecisionShown]:
    """Every signed decision, oldest first, use case by use case.

    Raises:
        SettingsError, RegistryError: there are no trusted keys, or the decisions do not verify.
    """
    return [
        DecisionShown(
            use_case=use_case,
            number=one.number,
            kind=one.kind,
            who=one.who,
            why=one.why,
            at_s=one.time_s,
            letters=[*(name for names in one.letters.values() for name in names), *one.notes],
            gone=one.gone,
        )
        for use_case in use_cases
        for one in site.registry.letters(use_case).read()
    ]


def _content(site: Site, use_case: str, letter: DeadLetter) -> tuple[str | None, str | None]:
    """The record's value with personal data replaced; and why there is none to show."""
    lane = Lane(letter.tenant or "-", use_case)
    try:
        raw = letter.raw()[:_SHOWN_BYTES]
        return redact(_text(raw, site, lane), site.secret.redaction_key(lane))[:_SHOWN_CHARS], None
    except (LogError, TooLaboriousError) as error:
        return None, str(error)


def _text(raw: bytes, site: Site, lane: Lane) -> str:
    """The record as text; the subject, which may be a name, as its token."""
    try:
        event: Any = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return raw.decode("utf-8", "replace")
    if isinstance(event, dict) and event.get("subject") is not None:
        event["subject"] = subject_token(site.secret.subject_key(lane), str(event["subject"]))
    return msgspec.json.format(msgspec.json.encode(event), indent=2).decode()


def letter_shown(use_case: str, letter: DeadLetter, decision: LetterDecision | None) -> LetterShown:
    """One letter in a list."""
    return LetterShown(
        id=letter.id,
        use_case=use_case,
        tenant=letter.tenant or None,
        reason=letter.reason,
        detail=letter.detail,
        topic=letter.topic,
        partition=letter.partition,
        offset=letter.offset,
        time=letter.time.isoformat(),
        size_bytes=letter.size,
        state=decision.outcome if decision else "open",
    )


def _counted(before: LetterKind | None, letter: LetterShown) -> LetterKind:
    """One letter more of its kind."""
    earlier = before or LetterKind(use_case=letter.use_case, tenant=letter.tenant, reason=letter.reason)
    newer = before is None or letter.time >= earlier.newest
    counted = {name: getattr(earlier, name) + (letter.state == name) for name in ("open", "replayed", "dropped")}
    return msgspec.structs.replace(
        earlier,
        total=earlier.total + 1,
        newest=letter.time if newer else earlier.newest,
        example=letter.id if newer else earlier.example,
        detail=letter.detail if newer else earlier.detail,
        **counted,
    )
