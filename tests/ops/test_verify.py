"""`verify` finds what is missing, added or altered, and finds nothing where nothing is wrong."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.checks.oracle import LaneRules, Oracle
from ops.checks.verify import check_registry, verify
from ops.reports import VerifyReport
from store.buffer.item import Entry, Item
from store.buffer.ledger import Application, AuditTally, Claim, Counters, LogSlot
from store.buffer.memory import MemoryBuffer
from store.buffer.repair.positions import Skip
from store.event import ClassifyEscalation, Lane, TextInput, Undecodable, UnknownTask, decode, encode
from store.registry.files.folders import rulings_folder
from store.registry.manifest import SnapshotRecord
from store.registry.registry import Registry
from store.secrets import DataSecret, item_id, subject_token
from store.tasks.classify import ClassifyRules
from store.tasks.tasks import TASKS
from stream.log import Record, topic_of
from stream.memory import MemoryLog
from tests.contracts.escalations import LANE, escalation
from tests.contracts.escalations import slot as a_slot
from tests.store.drafts import make_draft, make_keys, make_manifest

SECRET = DataSecret(bytes(32))
OTHER = Lane("other", LANE.use_case)
TOPIC = topic_of(LANE.use_case)
EMPTY = Path("/nonexistent/registry")


def rules_of(*lanes: Lane) -> dict[Lane, LaneRules]:
    return {
        lane: LaneRules(
            lane_key=SECRET.lane_key(lane),
            redaction_key=SECRET.redaction_key(lane),
            subject_key=SECRET.subject_key(lane),
            task="classify",
            training_permitted=True,
        )
        for lane in lanes
    }


class World:
    """A log, a buffer, and a reader that applies the one to the other in small batches."""

    def __init__(self, keys: Path, *, k: int = 100, partitions: int = 3) -> None:
        self.k = k
        self.log = MemoryLog()
        self.log.ensure(TOPIC, partitions)
        self.buffer: Any = MemoryBuffer(k)
        self.rules = rules_of(LANE, OTHER)
        self.registry = Registry(EMPTY, make_keys(keys)[1])
        self.claims: dict[LogSlot, Claim] = {}
        self.at: dict[LogSlot, str] = {}

    def write(self, *events: ClassifyEscalation) -> None:
        for event in events:
            key = item_id(SECRET.lane_key(event.lane), ClassifyRules(), event.input)
            self.log.append(TOPIC, key=key.encode(), value=encode(event)).result(1)

    def ingest(self, *, batch: int = 7) -> None:
        for slot in self.log.slots(TOPIC):
            if slot not in self.claims:
                self.claims[slot] = self.buffer.claim(LANE.use_case, slot, "test")
                self.at[slot] = self.claims[slot].position
            begin, end = (int(bound) for bound in self.log.bounds(slot))
            start = begin if self.at[slot] == "-1" else int(self.at[slot])
            for first in range(start, end, batch):
                records = list(self.log.read(slot, str(first), str(min(first + batch, end))))
                self._apply(slot, records, str(records[-1].offset + 1))

    def _apply(self, slot: LogSlot, records: list[Record], position: str) -> None:
        entries, dead = list[Entry](), dict[Any, int]()
        for record in records:
            event = decode(record.value)
            if isinstance(event, Undecodable):
                dead[event.reason] = dead.get(event.reason, 0) + 1
            elif isinstance(event, UnknownTask):
                dead[event.buried_as] = dead.get(event.buried_as, 0) + 1
            elif event.lane not in self.rules:
                dead["unknown_lane"] = dead.get("unknown_lane", 0) + 1
            else:
                rules = TASKS[self.rules[event.lane].task](self.rules[event.lane].terms)
                kept = rules.normal(event, SECRET.redaction_key(event.lane))
                entries.append(Entry.of(kept, item_id(SECRET.lane_key(event.lane), rules, kept.input), rules))
        application = Application(
            use_case=LANE.use_case,
            slot=slot,
            fence=self.claims[slot].fence,
            start=self.at[slot],
            next=position,
            entries=tuple(entries),
            dead=dead,
        )
        assert self.buffer.apply(application).outcome == "ok"
        self.at[slot] = position

    def verify(self, *lanes: Lane, skips: Sequence[Skip] = ()) -> VerifyReport:
        return verify(
            {LANE.use_case: self.rules},
            lanes or (LANE, OTHER),
            history=self.log,
            buffer=self.buffer,
            registry=self.registry,
            items_per_stratum=self.k,
            max_age_s=1e12,
            skips={LANE.use_case: skips},
        )


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


class Overlaid:
    """A buffer that tells something else about one thing."""

    def __init__(self, buffer: MemoryBuffer, **instead: Callable[..., Any]) -> None:
        self._buffer = buffer
        self._instead = instead

    def __getattr__(self, name: str) -> Any:
        return self._instead.get(name) or getattr(self._buffer, name)


def some_events(number: int = 40) -> Iterator[ClassifyEscalation]:
    rng = Random(5)
    for index in range(number):
        reason = rng.choice(["cold", "audit", "low_confidence"])
        label = rng.choice(["refund", "cancel"])
        text = f"question {rng.randrange(15)}, mail me at joe@example.org"
        yield escalation(text, label=label, number=index, reason=reason)  # type: ignore[arg-type]


def test_subjects_are_tokens_and_those_that_an_earlier_release_kept_are_known(world: World) -> None:
    key = SECRET.subject_key(LANE)
    known = [None, "jane@example.org", subject_token(key, "jane@example.org"), "joe"]
    world.write(
        *(
            msgspec.structs.replace(event, subject=known[number % len(known)])
            for number, event in enumerate(some_events())
        )
    )
    world.ingest()  # keeps them as they came
    assert world.verify().ok
    old = world.buffer
    tokens = {one: subject_token(key, one) for one in known if one}
    world.buffer = Overlaid(
        old,
        items=lambda lane: (
            msgspec.structs.replace(item, subjects=sorted({tokens[one] for one in item.subjects}))
            for item in old.items(lane)
        ),
    )
    assert world.verify().ok
    world.buffer = Overlaid(
        old, items=lambda lane: (msgspec.structs.replace(item, subjects=["x"]) for item in old.items(lane))
    )
    assert any("subjects" in one.fields for one in world.verify().differing)


def test_a_text_that_cannot_be_redacted_is_dead_for_the_oracle_too_even_where_it_is_not_eligible(
    world: World, hard_text: str
) -> None:
    oracle = Oracle(LANE.use_case, world.rules, max_age_s=1e12)
    assert oracle.feed(encode(escalation(hard_text)), 0, a_slot(0), 0) is None
    assert oracle.feed(encode(escalation(hard_text, eligible=False)), 0, a_slot(0), 1) is None
    assert oracle.dead == {"unredactable": 2}


def test_a_buffer_that_holds_what_the_log_says_passes(world: World) -> None:
    world.write(*some_events(), *some_events(10), escalation("other", lane=OTHER), escalation("no", eligible=False))
    world.log.append(TOPIC, key=b"k", value=b"not json").result(1)
    world.ingest()
    report = world.verify()
    assert report.ok
    assert report.complete
    assert report.from_offset == 0
    assert (report.missing, report.extra, report.differing, report.in_motion) == ([], [], [], 0)
    assert report.expected == report.found == len({event.input.text for event in some_events()}) + 1
    assert report.records == 53
    assert sum(map(int, report.offsets.values())) == 53


def test_records_that_were_not_applied_yet_are_no_mismatch(world: World) -> None:
    world.write(*some_events(20))
    world.ingest()
    world.write(*some_events(40))
    assert world.verify().ok


def test_an_item_that_is_gone_is_missing(world: World) -> None:
    world.write(*some_events())
    world.ingest()
    gone = next(iter(world.buffer.items(LANE)))
    world.buffer = Overlaid(
        world.buffer, items=lambda lane, old=world.buffer: (i for i in old.items(lane) if i != gone)
    )
    report = world.verify()
    assert not report.ok
    assert report.missing == [gone.item_id]


def test_an_item_that_nobody_asked_for_is_extra(world: World) -> None:
    world.write(*some_events())
    world.ingest()
    strange = msgspec.structs.replace(next(iter(world.buffer.items(LANE))), item_id="f" * 32)
    world.buffer = Overlaid(
        world.buffer,
        items=lambda lane, old=world.buffer: iter([*old.items(lane), *([strange] if lane == LANE else [])]),
    )
    report = world.verify()
    assert not report.ok
    assert report.extra == ["f" * 32]


def test_an_item_that_an_earlier_release_kept_without_its_layout_is_sound(world: World) -> None:
    laid_out = escalation("if x:\n    stop()\n")
    world.write(laid_out)
    world.ingest()
    old = world.buffer
    (item,) = old.items(LANE)
    assert item.input == laid_out.input
    for kept, is_sound in (("if x: stop()", True), ("if x:\n  stop()", False)):
        altered = msgspec.structs.replace(item, input=TextInput(text=kept))
        world.buffer = Overlaid(old, items=lambda lane, one=altered: iter([one] if lane == LANE else []))
        assert world.verify().ok is is_sound


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("count", lambda item: item.count + 1),
        ("tally", lambda item: {**item.tally, "x@y": {"refund": 1}}),
        ("propensities", lambda item: {"0.5": item.count}),
        ("input", lambda item: TextInput(text=item.input.text + "!")),
        ("event_ids", lambda item: item.event_ids[1:]),
        ("last_asked_s", lambda item: item.last_asked_s + 1.0),
        ("stratum", lambda _: "elsewhere"),
        ("first_opinion", lambda _: None),
    ],
)
def test_an_item_that_was_altered_is_named_with_the_field(
    world: World, field: str, change: Callable[[Item], Any]
) -> None:
    world.write(*some_events())
    world.ingest()
    old = world.buffer
    victim = next(item for item in old.items(LANE) if item.count > 1)
    altered = msgspec.structs.replace(victim, **{field: change(victim)})
    world.buffer = Overlaid(
        old, items=lambda lane: (altered if item.item_id == victim.item_id else item for item in old.items(lane))
    )
    report = world.verify()
    assert not report.ok
    assert [(one.what, one.fields) for one in report.differing if one.what == victim.item_id] == [
        (victim.item_id, [field])
    ]


@pytest.mark.parametrize("by", [1, -1])
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("counted", {"counted+repeats", "counted-evicted", "counted"}),
        ("repeats", {"counted+repeats", "repeats"}),
        ("ineligible", {"ineligible"}),
        ("evicted", {"counted-evicted", "evicted"}),
        ("new_items", {"new_items"}),
    ],
)
def test_a_counter_that_is_off_by_one_is_named_in_each_sum_that_it_is_a_part_of(
    world: World, name: str, fields: set[str], by: int
) -> None:
    world.write(*some_events(), *some_events(5))
    world.ingest()
    old = world.buffer

    def counters(lane: Lane) -> Counters:
        values = {field: getattr(old.counters(lane), field) for field in Counters.__slots__}
        return Counters(**{**values, name: values[name] + by * (lane == LANE)})

    world.buffer = Overlaid(old, counters=counters)
    report = world.verify()
    assert not report.ok
    assert [(one.what, set(one.fields)) for one in report.differing] == [(str(LANE), fields)]


@pytest.mark.parametrize(
    ("audits", "agreed", "fields"),
    [
        (1, 0, {"audits.v1"}),
        (-1, 0, {"audits.v1"}),
        (0, 1, {"audits.v1.agreed"}),
        (0, -1, {"audits.v1.agreed"}),
        (1, 1, {"audits.v1", "audits.v1.agreed"}),
    ],
)
def test_a_tally_of_audits_that_is_off_by_one_is_named(
    world: World, audits: int, agreed: int, fields: set[str]
) -> None:
    world.write(*some_events())
    world.ingest()
    old = world.buffer

    def tallies(lane: Lane) -> dict[str, AuditTally]:
        kept = dict(old.audits(lane))
        if lane == LANE:
            kept["v1"] = AuditTally(audits=kept["v1"].audits + audits, agreed=kept["v1"].agreed + agreed)
        return kept

    world.buffer = Overlaid(old, audits=tallies)
    assert [(one.what, set(one.fields)) for one in world.verify().differing] == [(str(LANE), fields)]


def test_audits_of_a_version_that_nobody_asked_are_named(world: World) -> None:
    world.write(*some_events())
    world.ingest()
    old = world.buffer
    world.buffer = Overlaid(old, audits=lambda lane: {**old.audits(lane), "v9": AuditTally(audits=2, agreed=1)})
    fields = {field for one in world.verify().differing for field in one.fields}
    assert fields == {"audits.v9", "audits.v9.agreed"}


def test_dead_letters_and_audits_that_are_off_are_named(world: World) -> None:
    world.write(*some_events())
    world.log.append(TOPIC, key=b"k", value=b"not json").result(1)
    world.ingest()
    world.buffer = Overlaid(world.buffer, dead=lambda _: {}, audits=lambda _: {})
    fields = [field for one in world.verify().differing for field in one.fields]
    assert "dead.undecodable" in fields
    assert "audits.v1" in fields


def test_an_incomplete_log_is_said_to_be_and_still_finds_what_is_missing(world: World) -> None:
    world.write(*some_events())
    world.ingest()
    for partition in world.log._topics[TOPIC].partitions:
        partition.begin += 4
        del partition.records[:4]
    report = world.verify()
    assert report.ok
    assert not report.complete
    assert report.from_offset == 4
    world.buffer = Overlaid(world.buffer, items=lambda _: iter(()))
    emptied = world.verify()
    assert not emptied.ok
    assert emptied.missing


def test_what_a_person_skipped_is_not_missed_and_each_skip_is_named(world: World) -> None:
    world.write(*some_events(20))
    world.ingest()
    world.write(*(escalation(f"never read {number}", number=100 + number) for number in range(20)))
    skips = []
    for slot in world.log.slots(TOPIC):
        at, end = int(world.at[slot]), int(world.log.bounds(slot)[1])
        skips.append(
            Skip(slot=slot, at=str(at), to=str(end), unread=(at, end), again=(end, end), who="me", why="w", at_s=1.0)
        )
        world.buffer._positions[LANE.use_case][slot].next = str(end)
        world.at[slot] = str(end)
    world.write(*some_events(30))
    world.ingest()
    assert not world.verify().ok  # twenty questions are missing
    report = world.verify(skips=skips)
    assert (report.ok, report.complete) == (True, False)
    assert len(report.skipped) == 3
    assert "never read" in report.skipped[0]


def test_what_was_found_damaged_is_named_and_not_sound(world: World) -> None:
    world.write(*some_events())
    world.ingest()
    world.buffer = Overlaid(world.buffer, damaged=lambda lane: frozenset({"x"} if lane == LANE else ()))
    report = world.verify()
    assert (report.ok, report.damaged) == (False, [f"{LANE}: x"])


def test_a_topic_that_was_made_anew_leaves_the_check_incomplete(world: World) -> None:
    world.write(*some_events())
    world.ingest()
    del world.log._topics[TOPIC]
    world.log.ensure(TOPIC, 3)
    assert not world.verify().complete


def test_verify_passes_while_ingest_is_at_work(world: World) -> None:
    """Every look at the buffer finds it moved on: only what was asked meanwhile is compared within bounds."""
    world.write(*some_events(30))
    world.ingest()
    old, fresh = world.buffer, iter(some_events(400))

    def items(lane: Lane) -> Iterator[Item]:
        for item in list(old.items(lane)):
            world.write(next(fresh))
            world.ingest()
            yield item

    world.buffer = Overlaid(old, items=items, claim=old.claim, apply=old.apply)
    report = world.verify()
    assert report.in_motion > 0
    assert report.ok, report


asked = st.tuples(st.integers(0, 9), st.sampled_from(["a", "b", "c"]), st.integers(0, 30), st.booleans())


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(asked, max_size=60), k=st.integers(1, 12), batch=st.integers(1, 9))
def test_the_oracle_agrees_with_the_buffer_on_any_log(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, str, int, bool]], k: int, batch: int
) -> None:
    """Whatever is asked, repeated and evicted; also where an evicted question comes back with another answer."""
    world = World(tmp_path_factory.mktemp("keys"), k=k)
    for question, label, number, eligible in rows:
        reason = "audit" if number % 3 == 0 else "cold"
        world.write(
            escalation(f"q{question}", label=label, number=number, eligible=eligible, reason=reason)  # type: ignore[arg-type]
        )
        if number % 4 == 0:
            world.ingest(batch=batch)
    world.ingest(batch=batch)
    report = world.verify()
    assert report.ok, report


def registry_with_a_champion(folder: Path) -> tuple[Registry, str, Path]:
    key, trusted = make_keys(folder / "keys")
    registry = Registry(folder / "registry", trusted)
    lane = make_manifest().lane
    version = registry.versions(lane).publish(make_draft(folder / "draft"), make_manifest(), key)
    registry.moves(lane).append("promote", version=version, who="t", why="w", key=key, now_s=1.0)
    return registry, version, folder / "registry" / lane.tenant / lane.use_case


def test_a_sound_registry_passes(tmp_path: Path) -> None:
    registry, _, _ = registry_with_a_champion(tmp_path)
    found = check_registry(registry, [make_manifest().lane])
    assert (found.chain_ok, found.signatures_ok, found.versions_ok, found.problems) == (True, True, True, [])
    assert (found.versions, found.moves) == (1, 1)


def test_one_flipped_byte_of_a_version_is_found_and_the_file_named(tmp_path: Path) -> None:
    registry, version, folder = registry_with_a_champion(tmp_path)
    path = folder / "versions" / version / "head.safetensors"
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    found = check_registry(registry, [make_manifest().lane])
    assert not found.versions_ok
    assert "head.safetensors" in found.problems[0]


def test_a_move_with_a_wrong_signature_is_found(tmp_path: Path) -> None:
    registry, _, folder = registry_with_a_champion(tmp_path)
    path = folder / "moves" / "00000001.json"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b'"why":"w"', b'"why":"x"'))
    assert not check_registry(registry, [make_manifest().lane]).signatures_ok


@pytest.mark.parametrize("forged", [False, True])
def test_rulings_are_counted_and_a_forged_one_is_found(tmp_path: Path, *, forged: bool) -> None:
    key, trusted = make_keys(tmp_path / "keys")
    registry, lane = Registry(tmp_path / "registry", trusted), make_manifest().lane
    registry.rulings(lane).append("rename", who="ann", why="w", key=key, now_s=1.0, labels=["a"], to="b")
    (path,) = rulings_folder(tmp_path / "registry", lane).glob("*.json")
    if forged:
        path.chmod(0o644)
        path.write_bytes(path.read_bytes().replace(b'"why":"w"', b'"why":"x"'))
    found = check_registry(registry, [lane])
    assert (found.rulings, found.signatures_ok, bool(found.problems)) == (int(not forged), not forged, forged)


def test_a_version_that_a_move_names_and_that_is_gone_is_found(tmp_path: Path) -> None:
    registry, version, folder = registry_with_a_champion(tmp_path)
    (folder / "versions" / version).rename(folder / "elsewhere")
    found = check_registry(registry, [make_manifest().lane])
    assert not found.versions_ok
    assert version in found.problems[0]


def test_a_gap_in_the_chain_is_found(tmp_path: Path) -> None:
    registry, _, folder = registry_with_a_champion(tmp_path)
    (folder / "moves" / "00000001.json").rename(folder / "moves" / "00000002.json")
    assert not check_registry(registry, [make_manifest().lane]).chain_ok


def with_a_champion_made_at(world: World, folder: Path, positions: dict[str, str]) -> None:
    """The world's lane has a champion whose manifest says how far the log had been applied."""
    key, trusted = make_keys(folder / "keys-of-the-champion")
    world.registry = Registry(folder / "registry", trusted)
    snapshot = SnapshotRecord(
        sha256="0" * 64,
        rows=3,
        train=1,
        calibrate=1,
        judge=1,
        clusters=3,
        contrasts=0,
        moved_linked=0,
        prompt_version="1",
        positions=positions,
    )
    manifest = make_manifest(lane=LANE, snapshot=snapshot)
    version = world.registry.versions(LANE).publish(make_draft(folder / "draft"), manifest, key)
    world.registry.moves(LANE).append("promote", version=version, who="t", why="w", key=key, now_s=1.0)


def test_an_empty_log_and_an_empty_buffer_are_not_sound_where_a_champion_was_made_from_more(
    world: World, tmp_path: Path
) -> None:
    world.write(*some_events())
    world.ingest()
    slots = world.log.slots(TOPIC)
    applied = {f"{slot.uuid}/{slot.partition}": world.at[slot] for slot in slots}
    with_a_champion_made_at(world, tmp_path, {**applied, "unread/7": "-1"})
    report = world.verify()
    assert (report.ok, report.complete, report.lost) == (True, True, [])
    world.write(*some_events(50))
    world.ingest()
    assert world.verify().ok  # it has only gone on

    emptied = World(tmp_path / "emptied")  # Redis forgot everything: the topic is made anew, under another uuid
    emptied.registry = world.registry
    report = emptied.verify()
    assert (report.wrong, report.chain_ok, report.versions_ok) == (0, True, True)
    assert (report.ok, report.complete, len(report.lost)) == (False, False, 3)
    assert all("Redis was emptied" in why for why in report.lost)
    assert emptied.verify(OTHER).ok


def test_a_buffer_that_was_restored_from_before_its_champion_is_not_sound_unless_a_person_moved_it(
    world: World, tmp_path: Path
) -> None:
    world.write(*some_events(20))
    world.ingest()
    slot, at = next((slot, int(at)) for slot, at in world.at.items() if int(at) > 0)
    with_a_champion_made_at(world, tmp_path, {f"{slot.uuid}/{slot.partition}": str(at + 1)})
    report = world.verify()
    assert not report.ok
    assert f"up to {at + 1} of {slot.uuid}/{slot.partition}, and the buffer stands at {at}" in report.lost[0]
    skip = Skip(slot=slot, at=str(at + 1), to=str(at), unread=(at, at), again=(at, at + 1), who="me", why="w", at_s=1.0)
    assert world.verify(skips=[skip]).lost == []


@pytest.mark.parametrize("broken", ["chain_ok", "signatures_ok", "versions_ok"])
def test_a_sound_buffer_beside_a_registry_that_is_not_is_not_sound(world: World, tmp_path: Path, broken: str) -> None:
    """Each of the three alone, whatever else is well."""
    world.write(*some_events())
    world.ingest()
    with_a_champion_made_at(world, tmp_path, {})
    assert world.verify().ok
    folder = tmp_path / "registry" / LANE.tenant / LANE.use_case
    if broken == "chain_ok":
        (folder / "moves" / "00000001.json").rename(folder / "moves" / "00000002.json")
    elif broken == "signatures_ok":
        key, _ = make_keys(tmp_path / "stranger")
        (version,) = (folder / "versions").iterdir()
        signature = version / "manifest.sig"
        signature.chmod(0o644)
        signed = key.sign(b"understudy/manifest/1\n" + (version / "manifest.json").read_bytes())
        signature.write_bytes(msgspec.json.encode(msgspec.to_builtins(signed), order="sorted"))
    else:
        (version,) = (folder / "versions").iterdir()
        (version / "encoder" / "config.json").unlink()
    report = world.verify()
    found = {name: getattr(report, name) for name in ("chain_ok", "signatures_ok", "versions_ok")}
    assert found == {name: name != broken for name in found}
    assert (report.ok, report.wrong, report.damaged, report.lost) == (False, 0, [], [])
    assert report.problems


def test_counted_less_evicted_is_compared_with_what_is_kept_also_where_a_stratum_is_full(tmp_path: Path) -> None:
    """There the counters have no bounds of their own: the sum is all that tells."""
    world = World(tmp_path, k=2)
    world.write(*some_events())
    world.ingest()
    assert world.verify().ok
    old = world.buffer
    assert old.counters(LANE).evicted > 0

    def counters(lane: Lane) -> Counters:
        values = {field: getattr(old.counters(lane), field) for field in Counters.__slots__}
        return Counters(**{**values, "evicted": values["evicted"] + (lane == LANE)})

    world.buffer = Overlaid(old, counters=counters)
    assert [one.fields for one in world.verify().differing] == [["counted-evicted"]]
