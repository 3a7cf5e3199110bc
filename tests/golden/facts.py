"""What is known of each release's golden installation: the few figures that differ between releases."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.golden.events import LISTED_PROMPT, MODEL, PROMPT


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Of one release."""

    prompt: str  # the prompt version that its gateways named
    records: int  # in the log
    items: int
    counted: int  # events
    positions: tuple[str, str]  # of the partitions, up to which its ingest has read
    events: int  # in `events.json`: the first so many of `every_event`
    dead: int  # letters in `dead_letters.json`: the first so many of `scene.DEAD`
    rulings: int
    first: bool = False  # it stored none of the kinds in `test_kinds`

    @property
    def key(self) -> str:
        """How its items name the prompt version."""
        return f"{MODEL}@{self.prompt}"


_FACTS: Final = {
    "0.1.0": Facts(
        prompt=LISTED_PROMPT,
        records=116,
        items=109,
        counted=111,
        positions=("58", "58"),
        dead=11,
        events=24,
        rulings=0,
        first=True,
    ),
    "0.2.0": Facts(
        prompt=PROMPT, records=119, items=112, counted=114, positions=("60", "59"), dead=13, events=26, rulings=6
    ),
}


def of(golden: Path) -> Facts:
    """Of the release that wrote a folder."""
    return _FACTS[golden.name]
