"""Dead letters of a buffer that is worked out anew: a letter for each record that is dead, and no count without one.

Another release may have kept what is dead today: it would be counted, and `dlq` could not show it. Or it buried what is
an item now: the letter is settled, lest it be replayed, and what people have dealt with is counted anew, lest it hide
as many letters to come.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from store.buffer.ledger import LogSlot
from store.event import Lane, Undecodable, tenant_named
from store.letters.deciding import Deciding
from store.secrets import DataSecret
from stream.dead_letter import DeadLetters, Letter, read_dead_letters
from stream.log import Appender, History

Place = tuple[LogSlot, int]  # of a record: its slot and offset
_BATCH: Final = 100
_REBUILT: Final = "its question is an item: the buffer was rebuilt"


@dataclass(frozen=True, kw_only=True)
class Letters:
    """The letters of a use case, and what was decided about them."""

    use_case: str
    lanes: Collection[Lane]  # of the settings
    appender: Appender
    deciding: Deciding
    secret: DataSecret

    def reconcile(self, history: History, buried: Mapping[Place, Undecodable]) -> Counter[str]:
        """Write the letters that are missing, settle those of what is an item; how many are dealt with, by reason.

        Raises:
            StoreUnavailableError, LogUnavailableError: Redis or the log did not answer; a repeat is harmless.
            SettingsError, RegistryError: a letter is to be settled, and nobody here can sign that.
        """
        self.deciding.put_right()
        decided, settled, written = self.deciding.book.decisions(self.use_case), Counter[str](), set[Place]()
        kept = dict[str, str]()
        for letter in read_dead_letters(history, self.use_case, self.secret):
            place = (letter.slot, letter.offset)
            written.add(place)
            if place not in buried and letter.id not in decided:
                kept[letter.id] = letter.reason
            elif place in buried and letter.id in decided:
                settled[buried[place].reason] += 1
        if kept:
            self.deciding.settle("replay", kept, {}, why=_REBUILT)
        missing = {place: fault for place, fault in buried.items() if place not in written}
        for letters in self._to_write(history, missing):
            DeadLetters(self.appender, self.secret).write(self.use_case, letters)
        return settled

    def _to_write(self, history: History, missing: Mapping[Place, Undecodable]) -> Iterator[list[Letter]]:
        letters: list[Letter] = []
        for (slot, offset), fault in missing.items():
            for record in history.read(slot, str(offset), str(offset + 1)):
                tenant = tenant_named(record.value) or ""
                known = Lane(tenant, self.use_case) in self.lanes
                letters.append(Letter(slot=slot, record=record, fault=fault, tenant=tenant if known else ""))
            if len(letters) >= _BATCH:
                yield letters
                letters = []
        yield letters
