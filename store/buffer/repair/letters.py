"""Notes of what people decided about dead letters: each is replayed or dropped once, and counted as dealt with.

The letters themselves stay where they are. What is noted is signed first: `store.letters`.
"""

from collections.abc import Mapping
from typing import Final, cast

import msgspec
import redis

from store.buffer.keys import available, script_of, settled_key, text_of
from store.letters.decisions import LetterDecision
from store.log.lazy import logger

_log = logger(__name__)
_ABANDONED_S: Final = 120.0  # a replay that began so long ago was killed half way: longer than a log takes to answer


class LetterBook:
    """The notes of an installation. Every method raises StoreUnavailableError while Redis does not answer."""

    def __init__(self, client: redis.Redis) -> None:
        """Use an open client with `decode_responses` off."""
        self._redis = client
        self._settle = client.register_script(script_of("repair/settle.lua"))
        self._reopen = client.register_script(script_of("repair/reopen.lua"))

    def notes(self, use_case: str) -> dict[str, bytes]:
        """What is noted, by the letter's id, as it lies there."""
        with available():
            found = cast("dict[bytes, bytes]", self._redis.hgetall(_noted_key(use_case)))
        return {text_of(letter): value for letter, value in found.items()}

    def decisions(self, use_case: str) -> dict[str, LetterDecision]:
        """What was decided, by the letter's id; a note that cannot be read is left out, aloud."""
        return readable(self.notes(use_case))

    def begin(self, use_case: str, letter: str, decision: LetterDecision) -> bool:
        """Take a letter to replay it; False while somebody else is at it, or it was decided.

        One that was begun and never settled (its replay was killed) may be taken again after two minutes: its event's
        id makes a repeat harmless.
        """
        begun, value = _begun_key(use_case), msgspec.json.encode(decision)
        with available():
            if self._redis.hexists(_noted_key(use_case), letter):
                return False
            if self._redis.hsetnx(begun, letter, value):
                return True
            earlier = cast("bytes | None", self._redis.hget(begun, letter))
            try:
                since_s = msgspec.json.decode(earlier or b"", type=LetterDecision).at_s
            except msgspec.MsgspecError:
                since_s = 0.0
            if decision.at_s - since_s < _ABANDONED_S:
                return False
            self._redis.hset(begun, letter, value)
        return True

    def give_up(self, use_case: str, letter: str) -> None:
        """A replay that has begun came to nothing: the letter may be taken again."""
        with available():
            self._redis.hdel(_begun_key(use_case), letter)

    def settle(self, use_case: str, letter: str, reason: str, decision: LetterDecision, *, count: int = 1) -> bool:
        """Note a decision; False when there is one already, which stays.

        Args:
            use_case: of the letter.
            letter: its id.
            reason: why it is dead: the count of these goes down.
            decision: what was decided.
            count: how many letters it stands for.
        """
        keys = [_noted_key(use_case), settled_key(use_case), _begun_key(use_case)]
        arguments: list[str | bytes] = [letter, msgspec.json.encode(decision), reason, str(count)]
        with available():
            return bool(self._settle(keys=keys, args=arguments))

    def reopen(self, use_case: str, letter: str, reason: str, was: bytes) -> bool:
        """Take a note away; False where another lies there by now, or none.

        Args:
            use_case: of the letter.
            letter: its id.
            reason: why it is dead: the count of these goes up again.
            was: the note as it lies there.
        """
        keys = [_noted_key(use_case), settled_key(use_case)]
        with available():
            return bool(self._reopen(keys=keys, args=[letter, was, reason]))

    def put_right(self, use_case: str, letter: str, decision: LetterDecision) -> None:
        """Note what was signed in the place of a note that says something else; it is counted already."""
        with available():
            self._redis.hset(_noted_key(use_case), letter, msgspec.json.encode(decision))


def readable(notes: Mapping[str, bytes]) -> dict[str, LetterDecision]:
    """Notes as decisions; one that cannot be read is left out, aloud."""
    decided: dict[str, LetterDecision] = {}
    for letter, value in notes.items():
        try:
            decided[letter] = msgspec.json.decode(value, type=LetterDecision)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            _log.error("a note on a dead letter cannot be read", letter=letter, why=str(error))
    return decided


def _noted_key(use_case: str) -> str:
    return f"{{{use_case}}}:letters"


def _begun_key(use_case: str) -> str:
    return f"{{{use_case}}}:letters:begun"
