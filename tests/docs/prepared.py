"""An installation with a past, on which the commands of the pages are typed, and what their examples stand for."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from typer.testing import CliRunner, Result

from ops.cli.app import app
from ops.letters.reading import Choice, list_letters
from store.event import utc
from tests.contracts.escalations import START_S, escalation
from tests.docs.lines import ours_in
from tests.ops.proxied import FakeTeacher, serving
from tests.ops.sites import LANE, make_site, publish
from tests.ops.stand import Stand, until
from tests.ops.test_dead_letters import add_the_label, bury, off_list
from tests.ops.test_traces import ASKED, SAID, batch, span
from tests.tiny import tiny_encoder

OLD_PROMPT: Final = "1a2b000000000000"
_LABELS: Final = '["refund", "delivery", "other", "late", "lost", "fax"]'
_SAID: Final = {"where is my parcel?": "delivery", "money back": "refund"}
_ROWS: Final = [
    {"text": text, "label": label, "question": text, "teacher": {"label": label}} for text, label in _SAID.items()
]
_SPAN: Final = batch(span(1, {"gen_ai.input.messages": ASKED, "gen_ai.output.messages": SAID}))
_FILES: Final[Mapping[str, Sequence[Any]]] = {
    "answers.jsonl": _ROWS,
    "spans.jsonl": [_SPAN],
    "items.jsonl": ["rubber boots", "sandals"],
}
_HEADS: Final = (b"one", b"two", b"three", b"four", b"five")
_FOLDERS: Final = ("/var/backups", "/var/www/html", "/var/www")
_HOUR: Final = ("2026-03-01T12:00", "2026-03-01T13:00")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A lane of labels with items, dead letters, an older prompt and five versions; its ingest is at work."""

    stand: Stand
    versions: Sequence[str]
    folder: Path  # where the commands are typed
    shop: Path  # settings of the lane acme/shop, which ranks

    def types(self, line: str) -> Result:
        """Type a command line of a page, with what its examples stand for."""
        words = ours_in(line)
        assert words is not None, line
        meant = [self._meant(words, place) for place in range(len(words))]
        of_the_shop = ["--config", str(self.shop)] if "acme/shop" in words else []
        return CliRunner().invoke(app, [*meant, *of_the_shop], input="y\n")

    def _meant(self, words: Sequence[str], place: int) -> str:
        word, room = words[place], words[0]
        match room, word:
            case "dlq", "3fa1" | "1a2b":
                return list_letters(self.stand.site, [LANE.use_case], 9, Choice(kind="undecodable")).letters[0].id
            case _, "3fa1":
                return self.stand.items()["question 0"].item_id
            case "answers", "3":
                return "1"
            case _, "3f2a9c":
                champion = self.stand.site.registry.moves(LANE).standing(0.0).champion
                return next(one for one in self.versions if one != champion)
            case "trace", _ if place == 1:
                return escalation("question 0").id  # the first that was sent
            case _:
                pass
        for place_shown, ours in self._places(room).items():
            word = word.replace(place_shown, ours)
        return word

    def _places(self, room: str) -> Mapping[str, str]:
        """Folders and times that the pages name, and ours; the first that fits holds."""
        here = str(self.folder)
        hour = [utc(START_S + seconds).isoformat()[:19] for seconds in (-60, 10)]
        new = {"/etc/understudy": str(self.folder / "new")} if room == "init" else {"/etc/understudy": here}
        return {**dict.fromkeys(_FOLDERS, here), **new, **dict(zip(_HOUR, hour, strict=True))}


@contextmanager
def prepared(folder: Path, redis_url: str) -> Iterator[Prepared]:
    """One that is ready; the process stays in the folder that it is in."""
    with ExitStack() as stack:
        teacher = stack.enter_context(serving(FakeTeacher(said="delivery").app()))
        told = {"url": f'"{redis_url}"', "base_url": f'"http://127.0.0.1:{teacher}/v1"', "labels": _LABELS}
        path = make_site(folder / "site", **told)
        before = Stand(path, stack)
        now, before.prompt_version = before.prompt_version, OLD_PROMPT
        before.send(60, questions=55, label="delivery")
        before.prompt_version = now
        before.send(12, label="delivery")
        bury(before, b"no event", off_list(1))
        add_the_label(before)
        stand = Stand(path, stack)
        versions = publish(path, *_HEADS)
        for name, rows in _FILES.items():
            (path.parent / name).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        stack.enter_context(stand.ingesting())
        until(lambda: stand.counters.counted >= 60)
        yield Prepared(stand=stand, versions=versions, folder=path.parent, shop=_shop(folder))


def _shop(folder: Path) -> Path:
    made = CliRunner().invoke(app, ["init", str(folder / "shop"), "--task", "rank", "--teacher", "rerank"])
    assert made.exit_code == 0, made.output
    path, encoder = folder / "shop" / "understudy.toml", tiny_encoder(folder / "encoder")
    text = path.read_text("utf-8").replace('use_case = "support"', 'use_case = "shop"')
    text = text.replace('#encoder = "minilm"', f'encoder = "{encoder}"', 1).replace(
        "#max_tokens = 256", "max_tokens = 48", 1
    )
    path.write_text(text, "utf-8")
    return path
