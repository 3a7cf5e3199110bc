"""How a decision about dead letters is made: it is signed, then noted in Redis, which is where it takes effect.

A kill between the two leaves decisions that are signed and not noted: whoever decides next notes them.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, Final

import msgspec

from store.buffer.repair.letters import LetterBook
from store.errors import MoveConflictError
from store.letters.decisions import MOST_LETTERS, InForce, LetterDecision, LetterDecisions, LetterRecord, fold
from store.letters.decisions import LetterMove as Move
from store.log.lazy import logger
from store.registry.signing import SigningKey

_log: Final = logger(__name__)
_ADOPTED: Final = "noted by an earlier release, which did not sign"


@dataclass(frozen=True, kw_only=True)
class Deciding:
    """Whoever decides about the dead letters of one use case."""

    chain: LetterDecisions
    book: LetterBook
    load_key: Callable[[], SigningKey]  # the operator's; before the first signature
    now: Callable[[], float]  # Unix seconds

    @cached_property
    def key(self) -> SigningKey:
        """The operator's, whose name is kept as `who`.

        Raises:
            SettingsError: there is none.
            BadSignatureError: it is not trusted here.
        """
        key = self.load_key()
        self.chain.check(key)
        return key

    def put_right(self) -> int:
        """Note what is signed and noted otherwise or not at all; how many letters' notes that were.

        Raises:
            StoreUnavailableError: Redis does not answer.
            RegistryError: the chain does not verify.
        """
        notes = self._notes()
        standing = fold(self.chain.read())
        count = self._note(standing, standing.signed, notes)
        for name, reason in standing.reopened.items():
            if name in notes:
                count += self.book.reopen(self._use_case, name, reason, notes[name])
        if count:
            _log.warning("signed decisions about dead letters are noted again", use_case=self._use_case, count=count)
        return count

    def settle(self, kind: Move, reasons: Mapping[str, str], gone: Mapping[str, int], *, why: str) -> None:
        """Sign and note that letters are dealt with; one that is already stays as it is.

        Args:
            kind: `replay`, once the log has them again, or `drop`.
            reasons: letter -> why it is dead.
            gone: reason -> how many that are counted and no longer in the log.
            why: the reason of the decision.

        Raises:
            StoreUnavailableError: Redis does not answer; what is signed is noted by the next decision.
            RegistryError: it cannot be signed, or the chain does not verify.
        """
        for part in _parts(reasons):
            self._signed(kind, why, None, letters=_by_reason(part))
            self._note(fold(self.chain.read()), part, self._notes())
        if gone:
            record = self._signed(kind, why, None, gone=gone)
            self._note(fold([record]), fold([record]).signed, self._notes())

    def reopen(self, reasons: Mapping[str, str], *, why: str) -> set[str]:
        """Take decisions back; the letters that are open now.

        Raises:
            MoveConflictError: somebody else has decided meanwhile.
            StoreUnavailableError, RegistryError: as of `settle`.
        """
        known, notes, opened = len(self.chain.read()), self._notes(), set[str]()
        for part in _parts(reasons):
            known = self._signed("reopen", why, known, letters=_by_reason(part)).number
            opened |= {
                name
                for name, reason in part.items()
                if name in notes and self.book.reopen(self._use_case, name, reason, notes[name])
            }
        return opened

    @property
    def _use_case(self) -> str:
        return self.chain.owner

    def _notes(self) -> dict[str, bytes]:
        return self.book.notes(self._use_case)

    def _note(self, standing: InForce, names: Iterable[str], notes: Mapping[str, bytes]) -> int:
        """Note what is in force of some letters; how many notes that changed."""
        count = 0
        for name in names:
            if (signed := standing.signed.get(name)) is None:
                continue
            if name not in notes:
                count += self.book.settle(self._use_case, name, signed.reason, signed.decision, count=signed.count)
            elif not says(notes[name], signed.decision):
                self.book.put_right(self._use_case, name, signed.decision)
                count += 1
        return count

    def _signed(self, kind: Move, why: str, known: int | None, **what: Any) -> LetterRecord:
        """Sign; `known`: how many records it was decided on, None where that does not matter."""
        key, begun = self.key, self.chain.read()
        if known is not None and known != len(begun):
            message = f"{kind} in {self._use_case}: another writer moved first; read the letters and decide anew"
            raise MoveConflictError(message)
        after = len(begun) or self._adopt(key)
        expected = None if known is None else after + 1
        return self.chain.append(kind, who=key.name, why=why, key=key, now_s=self.now(), expected=expected, **what)

    def _adopt(self, key: SigningKey) -> int:
        """Begin the chain with the notes that an earlier release made; how many records that took."""
        count, found = 0, {name: digest(raw) for name, raw in self._notes().items() if number_of(raw) is None}
        for part in _parts(found):
            count += 1
            self.chain.append(
                "adopt", who=key.name, why=_ADOPTED, key=key, now_s=self.now(), expected=count, notes=part
            )
        return count


def says(raw: bytes, decision: LetterDecision) -> bool:
    """Whether a note is that decision."""
    try:
        return msgspec.json.decode(raw, type=LetterDecision) == decision
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False


def number_of(raw: bytes) -> int | None:
    """Under which number a note says it was signed; None: it says none, or cannot be read."""
    try:
        return msgspec.json.decode(raw, type=LetterDecision).number
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def digest(raw: bytes) -> str:
    """By which a note that an earlier release made is known."""
    return hashlib.sha256(raw).hexdigest()


def _parts(values: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """As many entries as one record holds, again and again."""
    left = iter(values.items())
    while part := dict(islice(left, MOST_LETTERS)):
        yield part


def _by_reason(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for name, reason in reasons.items():
        found[reason].append(name)
    return dict(found)
