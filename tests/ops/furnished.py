"""An installation with a lane of each task, a past and a buffer: what the console's tests look at."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec
import redis

from ops.answers.reading import Reading
from ops.init import init
from ops.settings import Settings
from ops.site import Site
from store.buffer.item import Entry
from store.buffer.ledger import Application, LogSlot
from store.control import Control, CycleEnded, Heartbeat
from store.cycles.signs import CycleRunning, Signs, TrainerSign
from store.event import (
    ChatAnswer,
    ChatEscalation,
    ChatInput,
    ClassifyEscalation,
    Escalation,
    EscalationCause,
    LabelAnswer,
    Lane,
    Message,
    RankAnswer,
    RankEscalation,
    RankInput,
    StudentOpinion,
    TextInput,
    new_event_id,
    utc,
)
from store.money.deeds import Deeds
from store.registry.manifest import SliceResult, Topic, Verdict
from store.registry.signing import SigningKey
from store.registry.students.records import ChatRecord, RankRecord
from store.secrets import item_id
from store.tasks.tasks import TASKS
from tests.ops.sites import CERTIFIED
from tests.store.drafts import make_draft, make_manifest

SUPPORT: Final = Lane("acme", "support")
SHOP: Final = Lane("acme", "shop")
DESK: Final = Lane("acme", "desk")
LANES: Final = (SUPPORT, SHOP, DESK)
HOSTILE: Final = '<script>document.title="owned"</script><img src=x onerror=alert(1)>'
_DAY_S: Final = 86_400.0
_LABELS: Final = ("refund", "delivery", "login", "invoice")
_WORDS: Final = {
    "refund": (
        "I want my money back for the kettle",
        "when is the refund coming",
        "you charged me twice for one order",
    ),
    "delivery": ("where is my parcel", "the courier never came", "can I change the delivery address"),
    "login": ("I cannot log in any more", "the reset code does not arrive", "my account says locked"),
    "invoice": (
        "please send the invoice again",
        "our VAT number is missing on the bill",
        "the invoice is in the wrong name",
    ),
}
_DOCUMENTS: Final = (
    "rubber boots with lining",
    "leather sandals",
    "trail running shoes",
    "umbrella, folding",
    "wool socks",
)
_LANES: Final = """
[[lanes]]
tenant = "acme"
use_case = "support"
labels = ["refund", "delivery", "login", "invoice"]
training_permitted = true
budget = { calls_per_day = 5000 }
[lanes.teacher]
base_url = "http://127.0.0.1:9/v1"
model = "large"
prompt_file = "prompts/classify.txt"
input_usd_per_mtok = 3.0
output_usd_per_mtok = 15.0
[[lanes]]
tenant = "acme"
use_case = "shop"
task = "rank"
training_permitted = true
budget = { calls_per_day = 5000 }
promise = { target = 0.9 }
teacher = { base_url = "http://127.0.0.1:9/v1", model = "large", kind = "rerank", input_usd_per_mtok = 1.0 }
[[lanes]]
tenant = "acme"
use_case = "desk"
task = "chat"
training_permitted = true
budget = { calls_per_day = 5000 }
student = { model = "model" }
teacher = { base_url = "http://127.0.0.1:9/v1", model = "large", input_usd_per_mtok = 3.0, output_usd_per_mtok = 15.0 }
"""


def furnish(folder: Path, redis_url: str, now_s: float, *, questions: int = 160) -> Path:
    """An installation with a lane of each task; its settings file.

    Args:
        folder: not there yet, or empty.
        redis_url: of an empty Redis.
        now_s: Unix seconds; the past ends here.
        questions: of each lane.
    """
    init(folder)
    path = folder / "understudy.toml"
    (folder / "model").mkdir()
    path.write_text(
        f'[redis]\nurl = "{redis_url}"\n[gateway]\nport = 0\n[admin]\nserve_port = 0\ningest_port = 0\ntrain_port = 0\n'
        f"[trainer]\nquarantine_s = 3600.0\n" + _LANES,
        "utf-8",
    )
    site = Site(Settings.load(path))
    with site.redis_client() as client:
        for lane in LANES:
            _fill(site, client, lane, now_s, questions)
            _keep_books(client, lane, now_s)
            versions = _publish(site, folder, lane, now_s)
            _note_cycles(client, lane, versions, now_s)
            _audit(client, lane, versions[-1])
    return path


@contextmanager
def living(site: Site, now_s: float) -> Iterator[None]:
    """A gateway and a trainer that are heard of, for as long as the block runs; a cycle of the first lane goes on."""
    stop, first = threading.Event(), threading.Event()

    def run() -> None:
        with site.redis_client() as client:
            while not stop.is_set():
                for lane in LANES:
                    _announce(site, client, lane, now_s)
                first.set()
                stop.wait(0.5)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert first.wait(30)
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _announce(site: Site, client: redis.Redis, lane: Lane, now_s: float) -> None:
    champion = site.registry.moves(lane).standing(0.0).champion
    beat = Heartbeat(version=champion, at_s=now_s, recent_requests=400, recent_escalated=62, budget_used_calls=312)
    Control(client).announce(lane, site.replica, beat)
    cycle = CycleRunning(
        id="c9",
        kind="fine_tune",
        at_s=now_s - 130,
        request="",
        stage="fine_tuning",
        number=4,
        stages=7,
        done_ratio=0.42,
        elapsed_s=130.0,
        left_s=190.0,
        left_by="steps",
    )
    running = cycle if lane == SUPPORT else None
    Signs(client).give(lane, TrainerSign(owner="me", at_s=now_s, busy_with=str(SUPPORT), cycle=running))


def _fill(site: Site, client: redis.Redis, lane: Lane, now_s: float, questions: int) -> None:
    section = site.lane(str(lane))
    rules = TASKS[section.task](section.terms())
    key, redaction = site.secret.lane_key(lane), site.secret.redaction_key(lane)
    entries = []
    for event in _events(site, lane, now_s, questions):
        try:
            kept = rules.normal(event, redaction)
        except Exception:  # noqa: BLE001 - a label that was on the list once: kept as earlier releases kept it
            kept = msgspec.structs.replace(event, input=rules.redact(event.input, redaction))
        entries.append(Entry.of(kept, item_id(key, rules, kept.input), rules))
    buffer, slot = site.buffer(client), LogSlot(f"understudy.{lane.use_case}", "0" * 32, 0)
    claim = buffer.claim(lane.use_case, slot, "furnished")
    applied = buffer.apply(
        Application(
            use_case=lane.use_case,
            slot=slot,
            fence=claim.fence,
            start=claim.position,
            next=str(len(entries)),
            entries=tuple(entries),
        )
    )
    assert applied.outcome == "ok"


def _events(site: Site, lane: Lane, now_s: float, questions: int) -> Iterator[Escalation]:
    rng = Random(f"{lane}")
    version = Reading.of(site.lane(str(lane))).version()
    make: Any = {SUPPORT: _of_support, SHOP: _of_shop, DESK: _of_desk}[lane]
    for number in range(questions):
        prompt = "an older prompt" if number % 11 == 5 else version
        time_s = now_s - (300.0 if number % 17 == 3 else 3 * 3600.0 + 60.0 * number)
        audit = number % 4 == 1
        wrong = number % 9 == 1
        common: dict[str, Any] = {
            "tenant": lane.tenant,
            "use_case": lane.use_case,
            "escalation": EscalationCause(
                reason="audit" if audit else "low_confidence", threshold=0.8, propensity=0.05 if audit else 1.0
            ),
        }
        for copy in range(2 if number % 13 == 6 else 1):
            moment = time_s + copy
            yield make(rng, number, copy, prompt, wrong)(
                id=new_event_id(moment, Random(f"{lane}/{number}/{copy}")), time=utc(moment), **common
            )


def _opinion(output: str) -> StudentOpinion:
    return StudentOpinion(version="0123456789abcdef", output=output, confidence=0.91)


def _of_support(rng: Random, number: int, copy: int, prompt: str, wrong: bool) -> Any:  # noqa: FBT001
    label = _LABELS[number % 4]
    text = f"{rng.choice(_WORDS[label])}, number {number}" if copy == 0 else ""
    _of_support.last = text or _of_support.last  # type: ignore[attr-defined]
    if number == 1:
        text = f"{HOSTILE} my mail is ada@example.com"
    other = _LABELS[(number + 1) % 4]
    said = "complaint" if number % 37 == 20 else other if copy else label
    return lambda **common: ClassifyEscalation(
        input=TextInput(text=text or _of_support.last),  # type: ignore[attr-defined]
        teacher=LabelAnswer(model="large", prompt_version=prompt, label=said),
        student=_opinion(other if wrong else label),
        **common,
    )


def _of_shop(rng: Random, number: int, copy: int, prompt: str, wrong: bool) -> Any:  # noqa: FBT001
    scores = [rng.random() for _ in _DOCUMENTS]
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    query = f"{HOSTILE if number == 1 else 'shoes for rain'}, size {number}"
    return lambda **common: RankEscalation(
        input=RankInput(query=query, documents=list(_DOCUMENTS)),
        teacher=RankAnswer(model="large", prompt_version=prompt, scores=scores),
        student=_opinion(msgspec.json.encode(order[::-1] if wrong else order).decode()),
        **common,
    )


def _of_desk(rng: Random, number: int, copy: int, prompt: str, wrong: bool) -> Any:  # noqa: FBT001
    asked = HOSTILE if number == 1 else f"my card ending in {number} was swallowed"
    answer = rng.choice(("I am sorry to hear that. I have blocked it.", '{"tool": "block_card"}'))
    return lambda **common: ChatEscalation(
        input=ChatInput(
            messages=[Message(role="system", content="You help at a bank."), Message(role="user", content=asked)]
        ),
        teacher=ChatAnswer(model="large", prompt_version=prompt, text=answer),
        student=_opinion("Please call us tomorrow." if wrong else answer),
        **common,
    )


def _keep_books(client: redis.Redis, lane: Lane, now_s: float) -> None:
    """Thirty days of answers, of which the teacher gave fewer and fewer."""
    today = int(now_s // _DAY_S)
    ever = Deeds()
    for back in range(29, -1, -1):
        answered = 900 + 37 * (back % 7)
        teacher = round(answered * (0.12 + 0.7 * back / 29))
        cost = 400_000
        deeds = Deeds(
            student=answered - teacher,
            teacher=teacher,
            calls=teacher,
            calls_nano_usd=teacher * cost,
            audits=40,
            audits_nano_usd=40 * cost,
            chars=60 * answered,
        )
        ever += deeds
        _store(client, f"{{{lane.use_case}}}:{lane.tenant}:books:day:{today - back}", deeds)
    name = f"{{{lane.use_case}}}:{lane.tenant}:books:ever"
    _store(client, name, ever)
    client.hset(name, "since", str(int(now_s - 30 * _DAY_S)))


def _store(client: redis.Redis, name: str, deeds: Deeds) -> None:
    for field, value in msgspec.to_builtins(deeds).items():
        client.hset(name, field, value)


def _publish(site: Site, folder: Path, lane: Lane, now_s: float) -> list[str]:
    """Four versions: two that were promoted in turn, one that was declined, one that serves; a rollback between."""
    key = SigningKey.load(site.settings.keys.trainer)
    by_hand = SigningKey.load(site.settings.keys.operator)
    versions, moves = site.registry.versions(lane), site.registry.moves(lane)
    students: dict[Lane, Any] = {
        SHOP: RankRecord(k=1, epsilon=0.05, scored=True, golden=[]),
        DESK: ChatRecord(
            tokenizer="0" * 64,
            template="0" * 64,
            layers=4,
            rank=8,
            max_prompt_tokens=512,
            max_answer_tokens=128,
            signals=["mean"],
            golden=[],
        ),
    }
    made = []
    for number, (agreement, outcome) in enumerate(((0.71, "pass"), (0.79, "pass"), (0.64, "fail"), (0.86, "pass"))):
        draft = make_draft(folder / f"draft-{lane.use_case}-{number}", head=f"{lane} {number}".encode())
        at_s = now_s - (20 - 5 * number) * _DAY_S
        manifest = make_manifest(
            lane=lane,
            created_s=at_s,
            policy=CERTIFIED,
            verdict=_verdict(agreement, outcome, first=number == 0),
            topics=[
                Topic(name="parcel courier delivery", items=52, requests=1200.0, escalated_ratio=0.08, conflicts=3),
                Topic(name="refund charged money", items=41, requests=700.0, escalated_ratio=0.31, conflicts=0),
                Topic(name="shoes rain size", items=30, requests=320.0, escalated_ratio=0.54, conflicts=1),
            ],
        )
        if lane in students:
            manifest = msgspec.structs.replace(manifest, student=students[lane])
        made.append(versions.publish(draft, manifest, key))
        kind: Any = "promote" if outcome == "pass" else "decline"
        why = "passed" if outcome == "pass" else "student agreement may have fallen by 0.081, 0.050 allowed"
        moves.append(kind, version=made[-1], who="trainer", why=why, key=key, now_s=at_s + 60, anchor=number == 1)
        if number == 1:
            moves.append(
                "rollback",
                version=made[0],
                who="operator",
                why="live agreement was falling <b>fast</b>",
                key=by_hand,
                now_s=at_s + _DAY_S,
            )
            moves.append(
                "resume", version=None, who="operator", why="it was the prompt", key=by_hand, now_s=at_s + 2 * _DAY_S
            )
    return made


def _verdict(agreement: float, outcome: Any, *, first: bool) -> Verdict:
    slices = [] if first else [
        _slice("all judged rows", "retained", 412, 0.021, refused=False),
        _slice("hard rows", "hard", 133, 0.054, refused=False),
        _slice("label: refund", "blocking", 97, 0.012, refused=False),
        _slice("topic: parcel courier delivery", "watch", 51, -0.034, refused=outcome == "fail"),
    ]  # fmt: skip
    return Verdict(
        outcome=outcome,
        phase="first" if first else "growth",
        refusals=[] if outcome == "pass" else ["student agreement may have fallen by 0.081, 0.050 allowed"],
        rows_judged=412,
        student_agreement=agreement,
        difference=None if first else 0.021,
        lower=None if first else -0.008,
        upper=None if first else 0.050,
        delta=0.05,
        rows_needed=0,
        slices=slices,
    )


def _slice(name: str, kind: Any, rows: int, difference: float, *, refused: bool) -> SliceResult:
    half = 0.6 / rows**0.5
    return SliceResult(
        name=name,
        kind=kind,
        rows=rows,
        champion_agreement=0.78,
        challenger_agreement=0.78 + difference,
        difference=difference,
        lower=difference - half,
        upper=difference + half,
        delta=0.05,
        refused=refused,
    )


def _note_cycles(client: redis.Redis, lane: Lane, versions: list[str], now_s: float) -> None:
    for number, version in enumerate(versions):
        verdict: Any = "fail" if number == 2 else "pass"
        Control(client).cycle_ended(
            lane,
            CycleEnded(
                id=f"c{number}",
                at_s=now_s - (20 - 5 * number) * _DAY_S,
                seconds=48.0 + 30 * number,
                kind="head" if number else "fine_tune",
                verdict=verdict,
                why="" if verdict == "pass" else "student agreement may have fallen by 0.081, 0.050 allowed",
                version=version,
            ),
        )


def _audit(client: redis.Redis, lane: Lane, version: str) -> None:
    audits, agreed = {SUPPORT: (640, 625), SHOP: (180, 165), DESK: (210, 168)}[lane]
    name = f"{{{lane.use_case}}}:{lane.tenant}:audits"
    client.hset(name, f"{version}:audits", audits)
    client.hset(name, f"{version}:agreed", agreed)
