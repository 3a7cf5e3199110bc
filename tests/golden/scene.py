"""One installation as it is after some days: everything that it stores, written by its own writers.

The weights of its two versions are drawn by real cycles once, and kept: floating point differs from machine to machine.
Whoever writes again publishes the kept files under the kept manifests, and makes the same moves.
"""

import asyncio
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import msgspec
import redis
from prometheus_client import CollectorRegistry

from ops.answers.reading import Reading
from ops.init import init
from ops.open_log import ensure_topics, open_appender
from ops.settings import Settings
from ops.site import Site
from ops.wiring import ingest as ingest_wiring
from ops.wiring import train as train_wiring
from store.answers.rulings import Sample
from store.buffer.ledger import LogSlot
from store.control import CycleKind
from store.event import DeadReason, Escalation, Undecodable, encode
from store.registry.manifest import MANIFEST_NAME
from store.registry.moves import Move
from store.registry.sealed import decode_manifest
from store.registry.signing import SigningKey
from store.secrets import item_id
from store.tasks.tasks import TASKS, LaneTerms
from stream.dead_letter import DeadLetters, Letter
from stream.log import Appender, Headers, Record, dead_topic_of, topic_of
from stream.memory import MemoryLog
from stream.metrics import IngestMetrics
from stream.publisher import Publisher
from stream.spool import Spool
from tests.golden.events import LANE, LISTED_PROMPT, MODEL, PROMPT, asked, every_event, ranked
from tests.golden.fixed import NOW_S, OWNER, fixed_keys
from tests.tiny import questions
from trainer.cycle import run_cycle
from trainer.judge.gate import GateLimits
from trainer.work import CycleWork

TOPIC: Final = topic_of(LANE.use_case)
PARTITIONS: Final = 2
QUESTIONS: Final = 90
ACCEPTED: Final = "1" * 16  # an older prompt version whose answers were accepted
TRACEPARENT: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_DEADLINE_S: Final = 120.0
_SETTINGS: Final = {
    "labels": '["delivery", "login", "refund"]',
    "training_permitted": "true",
    "partitions": str(PARTITIONS),
    "min_items_per_label": "5",
    "max_tokens": "32",
    "device": '"cpu"',
    "precision": '"fp32"',
    "calibrate_ratio": "0.3",
    "judge_ratio": "0.2",
    "min_rows": "10",
    "delta": "0.05",
    "target": "0.4",
    "serve_port": "0",
    "ingest_port": "0",
    "train_port": "0",
    "port": "0",
}


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, in seconds of a slow machine."""
    deadline = time.monotonic() + _DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, condition
        time.sleep(0.01)


def initialised(folder: Path) -> None:
    """What `understudy init` makes, with the test keys."""
    with fixed_keys():
        init(folder)


def in_use(folder: Path, redis_url: str, encoder: Path) -> Site:
    """The installation of a folder, its settings filled in for use here."""
    path = folder / "understudy.toml"
    text = path.read_text("utf-8")
    for name, value in {**_SETTINGS, "url": f'"{redis_url}"', "encoder": f'"{encoder}"'}.items():
        text, found = re.subn(rf"(?m)^#?{name} = .*$", f"{name} = {value}", text, count=1)  # [trainer] before lanes
        assert found == 1, f"{name} is there {found} times"
    path.write_text(text, "utf-8")
    return Site(Settings.load(path))


@dataclass
class Noted:
    """An appender that notes what goes through it: what Kafka would be sent."""

    inner: Appender
    sent: list[dict[str, Any]] = field(default_factory=list)

    def append(
        self, topic: str, *, key: bytes, value: bytes, headers: Headers = (), timestamp_ms: int | None = None
    ) -> Future[None]:
        named = {name: header.decode() for name, header in headers}
        self.sent.append({"topic": topic, "key": key.decode(), "headers": named, "value": value.decode()})
        return self.inner.append(topic, key=key, value=value, headers=headers, timestamp_ms=timestamp_ms)

    def close(self) -> None:
        """The inner one is closed by whoever opened it."""


def key_of(site: Site, event: Escalation) -> str:
    """The record key of a gateway: the item id."""
    lane_key, redaction_key = site.secret.lane_key(event.lane), site.secret.redaction_key(event.lane)
    if event.task not in TASKS:
        return event.id
    rules = TASKS[event.task](LaneTerms())
    return item_id(lane_key, rules, rules.redact(event.input, redaction_key))


def published(
    site: Site, appender: Appender, folder: Path, events: Sequence[Escalation], *, spool_first: bool = False
) -> None:
    """Publish through the gateway's publisher; `spool_first`: as while the log does not answer."""

    async def main() -> None:
        publisher = Publisher(appender, Spool(folder, 1 << 16), ack_timeout_s=_DEADLINE_S)
        publisher._direct = not spool_first
        for number, event in enumerate(events):
            await publisher.publish(event, key_of(site, event), traceparent=TRACEPARENT if number == 1 else None)
        await publisher.close()

    asyncio.run(main())


def wire(site: Site, folder: Path) -> list[dict[str, Any]]:
    """Every variant of an event as key, value and headers on the log."""
    log = MemoryLog()
    log.ensure(TOPIC, 1)
    noted = Noted(log)
    events = every_event()
    published(site, noted, folder / "spool-of-wire", list(events.values()))
    return [{"name": name, **sent} for name, sent in zip(events, noted.sent, strict=True)]


def spool(site: Site, folder: Path) -> None:
    """Two processes' segments; the second was killed while it wrote."""
    log = MemoryLog()
    for number in range(2):
        events = [asked(300 + 2 * number + one, f"my parcel is late {one}", "delivery") for one in range(2)]
        published(site, Noted(log), folder, events, spool_first=True)
    newest = max(folder.glob("*.spool"))
    whole = newest.read_bytes()
    newest.write_bytes(whole + whole[: len(whole) // 3])
    (folder / "lock").unlink()


DEAD: Final[tuple[tuple[DeadReason, str, bytes], ...]] = (
    ("undecodable", "not JSON in UTF-8", b"\xff not json"),
    ("unknown_schema", "schema 2, this release reads 1", b'{"schema":2,"task":"classify"}'),
    ("oversized", "1048577 bytes, 1048576 allowed", b"x" * 4000),
    ("wrong_shape", "Expected `str`, got `int` - at `$.input.text`", b'{"task":"classify","schema":1}'),
    ("too_old", "400000000 s old when the log took it, 315360000 s allowed", encode(asked(400, "old", "login"))),
    ("unknown_lane", "no lane nobody/support", encode(asked(401, "a", "login", tenant="nobody"))),
    ("wrong_use_case", "other on the topic of support", encode(asked(402, "b", "login"))),
    ("unredactable", "it takes too long to redact: send the text in parts", encode(asked(403, "c", "login"))),
    ("off_list", "not one of the lane's labels", encode(asked(404, "d", "angry customer"))),
    # What this release would not bury any more: earlier ones did, of tasks that they did not know or keep.
    ("wrong_shape", "Invalid value - at `$.task`", b""),
    ("wrong_shape", "rank events are not kept by this release", encode(every_event()["rank, order"])),
    # From 0.2.0 on.
    (
        "in_future",
        "dated 100000 s after the log took it, 86400 s allowed",
        encode(asked(406, "e", "login", time_s=NOW_S + 100_000)),
    ),
    (
        "wrong_shape",
        "teacher.scores: 1 numbers for 2 documents; a finite one is wanted for each",
        encode(ranked(407, ["red shoes", "blue shoes"], scores=[0.5])),
    ),
)
TOLD_TENANT: Final = {"in_future": LANE.tenant}  # of the letters that name it


def dead_values(prompt: str = PROMPT) -> list[bytes]:
    """The original records of `DEAD`, as answered under a prompt version."""
    to_come = encode(asked(405, "good day", "login")).replace(b'"classify"', b'"translate"', 1)
    return [(value or to_come).replace(PROMPT.encode(), prompt.encode()) for _, _, value in DEAD]


def dead_letters(site: Site) -> list[dict[str, Any]]:
    """A letter of each reason as it lies on its topic; the oversized one is named without its bytes."""
    log = MemoryLog(max_record_bytes=3000)
    topic = dead_topic_of(LANE.use_case)
    log.ensure(topic, 1)
    letters: list[Letter] = []
    for offset, ((reason, detail, _), value) in enumerate(zip(DEAD, dead_values(), strict=True)):
        record = Record(
            topic=TOPIC,
            partition=1,
            offset=offset,
            key=b"k",
            value=value,
            headers=(),
            timestamp_ms=int(NOW_S * 1000) + offset,
        )
        fault = Undecodable(reason=reason, detail=detail)
        slot, tenant = LogSlot(TOPIC, "golden-uuid", 1), TOLD_TENANT.get(reason, "")
        letters.append(Letter(slot=slot, record=record, fault=fault, tenant=tenant))
    DeadLetters(log, site.secret).write(LANE.use_case, letters)
    (slot,) = log.slots(topic)
    return [
        {
            "key": (found.key or b"").decode(),
            "headers": {name: value.decode() for name, value in found.headers},
            "sealed": found.value.hex(),
        }
        for found in log.read(slot, *log.bounds(slot))
    ]


def rulings(site: Site) -> None:
    """Every kind of ruling. What they tell of is in the log: `of_rulings`."""
    chain, key = site.registry.rulings(LANE), site.operator_key()
    present = Reading.of(site.lane(str(LANE))).key()
    sample = Sample(asked=20, agreed=19, low=0.75, high=0.96875)
    common: dict[str, Any] = {"who": "ada", "key": key, "now_s": NOW_S}
    chain.append("rename", why="one name: Zażółć", labels=["parcel"], to="delivery", **common)
    chain.append("merge", why="both are refunds", labels=["chargeback", "money back"], to="refund", **common)
    chain.append("retire", why="nobody answers these", labels=["weather"], **common)
    chain.append(
        "accept", why="wording alone", prompt=f"{MODEL}@{ACCEPTED}", under=present, sample=sample, expected=4, **common
    )
    chain.append("retire", why="a slip", labels=["chargeback"], **common)
    chain.append("undo", why="it was a slip", undoes=5, **common)


def of_rulings() -> list[Escalation]:
    """An answer under an older label, one under an accepted prompt, one as the release before named the present one."""
    return [
        asked(2100, "the van never came", "parcel"),
        asked(2101, "you billed me two times", "refund", prompt=ACCEPTED),
        asked(2102, "the reset mail never came", "login", prompt=LISTED_PROMPT),
    ]


def streamed(site: Site, client: redis.Redis, folder: Path) -> None:
    """What the log and the buffer hold once ingest has read all of it."""
    assert Reading.of(site.lane(str(LANE))).version() == PROMPT
    ensure_topics(site, client)
    texts, labels = questions(QUESTIONS, seed=3)
    bulk = [
        asked(
            1000 + number,
            text,
            label,
            reason="audit" if number % 10 == 0 else "low_confidence",
            subject=f"user {number % 5}" if number % 7 == 0 else None,
        )
        for number, (text, label) in enumerate(zip(texts, labels, strict=True))
    ]
    again = [asked(2000, texts[0], labels[0]), asked(2001, texts[0], "login"), bulk[3], *of_rulings()]
    own = [event for event in every_event().values() if event.__struct_config__.tag == "classify"]
    with closing(open_appender(site, client)) as appender:
        published(site, Noted(appender), folder / "spool-of-streams", [*own, *bulk, *again])
        for value in (b"not json", b'{"schema":2}', encode(asked(3000, "lost", "login", tenant="nobody"))):
            appender.append(TOPIC, key=b"0", value=value).result(_DEADLINE_S)
        ingest = ingest_wiring.ingest(
            site, client, appender, LANE.use_case, OWNER, IngestMetrics.create(CollectorRegistry())
        )
        stop = threading.Event()
        thread = threading.Thread(target=ingest.run, args=(stop,))
        thread.start()
        buffer, count = site.buffer(client), len(own) + len(bulk) + len(again) + 3
        until(lambda: sum(int(at) for at in buffer.positions(LANE.use_case).values() if at != "-1") == count)
        stop.set()
        thread.join(_DEADLINE_S)
        assert not thread.is_alive()


def versions(site: Site, client: redis.Redis, kept: Path | None) -> list[str]:
    """A head and a fine-tuned version: those that are kept, published again, or new ones by real cycles."""
    published_ids: list[str] = []
    key = site.trainer_key()
    lane = site.registry.versions(LANE)
    if kept is not None:
        folders = sorted((kept / "registry" / LANE.tenant / LANE.use_case / "versions").iterdir(), key=_made_at)
        for folder in folders:
            manifest = decode_manifest((folder / MANIFEST_NAME).read_bytes())
            draft = site.settings.state_dir / f"draft-{folder.name}"
            for name, entry in manifest.files.items():
                (draft / name).parent.mkdir(parents=True, exist_ok=True)
                (draft / name).write_bytes((kept / "registry" / "blobs" / entry.sha256).read_bytes())
            published_ids.append(lane.publish(draft, msgspec.structs.replace(manifest, files={}), key))
        return published_ids
    items = list(site.buffer(client).items(LANE))
    kinds: tuple[CycleKind, ...] = ("head", "fine_tune")
    for number, kind in enumerate(kinds):
        todo = work(site, client, kind, champion=None, at_s=NOW_S + number)
        result = run_cycle(todo, items, positions(site, client))
        assert result.version is not None, result.verdict
        published_ids.append(result.version)
    return published_ids


def _made_at(folder: Path) -> float:
    return decode_manifest((folder / MANIFEST_NAME).read_bytes()).created_s


def positions(site: Site, client: redis.Redis) -> dict[str, str]:
    """As a cycle notes them."""
    found = site.buffer(client).positions(LANE.use_case)
    return {f"{slot.uuid}/{slot.partition}": at for slot, at in found.items()}


def work(site: Site, client: redis.Redis, kind: CycleKind, *, champion: str | None, at_s: float) -> CycleWork:
    """A cycle as the daemon hands it to its process: by the settings, and by the rules of its look at the lane."""
    trainer = train_wiring.trainer(site, client, OWNER)
    (training,) = trainer.lanes
    return CycleWork(
        cycle_id=f"golden-{kind}",
        training=replace(training, readings=trainer.rules(LANE), confidence=0.8),
        kind=kind,
        candidate=None,
        champion=champion,
        anchor=None,
        now_s=at_s,
        settings=replace(train_wiring.cycle_settings(site.settings), limits=GateLimits(delta=0.05, min_rows=10)),
        redis_url="",
        items_per_stratum=1000,
        registry_root=site.registry_root,
        trusted_keys=site.settings.keys.trusted,
        signing_key=site.settings.keys.trainer,
        cache=site.settings.state_dir / "cache",
        code_version=trainer.places.code_version,
    )


def moves(site: Site, head: str, tuned: str) -> list[Move]:
    """Every kind of move; in the end the fine-tuned version serves, and the head is where a rollback goes."""
    trainer, operator = site.trainer_key(), site.operator_key()
    chain = site.registry.moves(LANE)
    made: list[Move] = []

    def move(kind: Any, version: str | None, key: SigningKey, why: str, **fields: Any) -> None:
        number = len(made)
        made.append(
            chain.append(
                kind,
                version=version,
                who=key.name,
                why=why,
                key=key,
                now_s=NOW_S + number,
                expected=number + 1,
                **fields,
            )
        )

    move("promote", head, trainer, "passed", anchor=True)
    move("submit", tuned, operator, "tried at a desk")
    move("decline", tuned, trainer, "12 judged rows, 300 needed", candidate=tuned)
    move("promote", tuned, operator, "a person has looked: Zażółć", candidate=tuned)
    move("pin", None, operator, "a quiet week")
    move("rollback", head, operator, "complaints")
    move("pause", None, operator, "holidays")
    move("resume", None, operator, "back")
    move("promote", tuned, trainer, "passed", anchor=True)
    return made
