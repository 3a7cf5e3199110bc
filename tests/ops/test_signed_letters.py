"""Decisions about dead letters are signed; what is noted of them in Redis is compared with that and put right."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ops.checks import letters as checked
from store.buffer.repair.letters import LetterBook
from store.errors import StoreUnavailableError
from store.letters.decisions import LetterDecision
from store.registry.files.folders import letters_folder
from tests.ops.backups import call as call_there
from tests.ops.backups import keys_to, old, take
from tests.ops.sites import LANE
from tests.ops.stand import Stand, standing
from tests.ops.test_dead_letters import add_the_label, bury, call, off_list

NOTES = f"{{{LANE.use_case}}}:letters"
FORGED = LetterDecision(outcome="dropped", who="eve", why="nothing to see", at_s=1.0)


@pytest.fixture
def stand(tmp_path: Path, redis_url: str) -> Iterator[Stand]:
    with standing(tmp_path / "old", redis_url) as made:
        yield made


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was decided is long done."""
    monkeypatch.setattr(checked, "_AT_WORK_S", -1.0)


def chain(stand: Stand) -> list[Any]:
    return list(stand.site.registry.letters(LANE.use_case).read())


def ids(stand: Stand) -> list[str]:
    return [one["id"] for one in call(stand, "dlq", "list")["letters"]]


def still_open(stand: Stand) -> int:
    return sum(stand.buffer.open_dead(LANE.use_case).values())


@pytest.mark.usefixtures("later")
def test_every_decision_is_signed_by_the_operator_with_why_and_its_counter_move_too(stand: Stand) -> None:
    bury(stand, off_list(0), off_list(1), b"junk")
    first, second, junk = ids(stand)
    add_the_label(stand)
    call(stand, "dlq", "replay", first, "-r", "the label was added")
    call(stand, "dlq", "drop", second, junk, "-r", "a slip")
    call(stand, "dlq", "reopen", junk, "-r", "not that one")
    who = stand.site.operator_key().name
    assert [(one.number, one.kind, one.who, one.why, one.letters) for one in chain(stand)] == [
        (1, "replay", who, "the label was added", {"off_list": [first]}),
        (2, "drop", who, "a slip", {"off_list": [second], "undecodable": [junk]}),
        (3, "reopen", who, "not that one", {"undecodable": [junk]}),
    ]
    told = call(stand, "dlq", "decisions")
    assert [(one["number"], one["kind"], one["letters"]) for one in told] == [
        (1, "replay", [first]),
        (2, "drop", [second, junk]),
        (3, "reopen", [junk]),
    ]
    shown = call(stand, "dlq", "show", second)
    assert (shown["who"], shown["why"], shown["decision"]) == (who, "a slip", 2)
    with stand.ingesting():
        pass
    found = stand.verify()
    assert (found.letters_ok, found.letters, found.letters_unsigned, found.problems) == (True, 3, 0, [])


def test_without_the_operators_key_nothing_is_decided_and_nothing_sent(stand: Stand) -> None:
    bury(stand, off_list(0))
    add_the_label(stand)
    ends = {slot: stand.appender.bounds(slot) for slot in stand.appender.slots("understudy.support")}  # type: ignore[attr-defined]
    key = stand.site.settings.keys.operator
    key.rename(key.with_name("elsewhere"))
    for command in ("replay", "drop"):
        assert "keys.operator" in call(stand, "dlq", command, "--all", "-r", "w", code=2)
    assert (chain(stand), still_open(stand)) == ([], 1)
    assert ends == {slot: stand.appender.bounds(slot) for slot in ends}  # type: ignore[attr-defined]
    assert not stand.client.exists(f"{NOTES}:begun")


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("how", ["forged", "changed", "removed", "unreadable", "brought back", "cut off"])
def test_verify_finds_a_note_that_is_not_as_it_was_signed_and_says_what_to_do(stand: Stand, how: str) -> None:
    bury(stand, b"junk", b"[", b"{")
    one, two, three = ids(stand)
    call(stand, "dlq", "drop", one, "-r", "a test producer")
    call(stand, "dlq", "drop", two, "-r", "another")
    call(stand, "dlq", "reopen", two, "-r", "a slip")
    assert stand.verify().ok
    genuine = LetterBook(stand.client).notes(LANE.use_case)[one]
    said = {
        "forged": (three, msgspec.json.encode(FORGED), "nobody has signed"),
        "changed": (one, genuine.replace(b"a test producer", b"whatever"), "is not what was signed: dropped by"),
        "unreadable": (one, b"\xff", "is not what was signed: dropped by"),
        "removed": (one, None, "it is not noted that it was dropped by"),
        "brought back": (two, genuine, "nobody has signed"),
        "cut off": (two, genuine.replace(b'"number":1', b'"number":9'), "names decision 9, and the newest is 3"),
    }
    name, value, why = said[how]
    if value is None:
        stand.client.hdel(NOTES, name)
    else:
        stand.client.hset(NOTES, name, value)
    found = call(stand, "verify", code=1)
    assert (found["ok"], found["letters_ok"], found["wrong"], len(found["problems"])) == (False, False, 0, 1)
    assert f"dead letter {name}" in found["problems"][0]
    assert why in found["problems"][0]
    mending = call(stand, "dlq", "reopen", three, "-r", "nobody signed it") if how == "forged" else None
    (again,) = mending or call(stand, "dlq", "drop", three, "-r", "the next decision")
    assert again["noted_again"] == int(how != "forged")
    assert stand.verify().ok
    assert LetterBook(stand.client).decisions(LANE.use_case).keys() == ({one} if how == "forged" else {one, three})


def test_a_record_that_was_changed_or_taken_out_is_found(stand: Stand) -> None:
    bury(stand, b"junk", b"[")
    for name in ids(stand):
        call(stand, "dlq", "drop", name, "-r", "w")
    first, second = sorted(letters_folder(stand.site.registry_root, LANE.use_case).glob("*.json"))
    first.chmod(0o644)
    kept = first.read_bytes()
    first.write_bytes(kept.replace(b'"drop"', b'"reopen"'))
    found = call(stand, "verify", code=1)
    assert (found["signatures_ok"], found["letters_ok"]) == (False, False)
    assert "00000001.json" in found["problems"][0]
    first.unlink()
    assert "00000001.json is missing" in call(stand, "verify", code=1)["problems"][0]
    first.write_bytes(kept)
    assert call(stand, "verify")["ok"]
    second.unlink()
    assert "names decision 2, and the newest is 1" in call(stand, "verify", code=1)["problems"][0]


def test_a_decision_that_was_killed_before_it_was_noted_is_no_fault_at_once_and_is_noted_by_the_next(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    bury(stand, b"junk", b"[", b"{")
    one, two, three = ids(stand)

    def killed(*_: object, **__: object) -> bool:
        raise StoreUnavailableError

    with monkeypatch.context() as context:
        context.setattr(LetterBook, "settle", killed)
        call(stand, "dlq", "drop", one, "-r", "w", code=3)
    assert (len(chain(stand)), still_open(stand)) == (1, 3)
    assert call(stand, "verify")["ok"], "it may be under way"
    with monkeypatch.context() as context:
        context.setattr(checked, "_AT_WORK_S", -1.0)
        assert not call(stand, "verify", code=1)["letters_ok"]
    (found,) = call(stand, "dlq", "drop", two, "-r", "w")
    assert (found["noted_again"], still_open(stand)) == (1, 1)
    with monkeypatch.context() as context:
        context.setattr(LetterBook, "reopen", killed)
        call(stand, "dlq", "reopen", two, "-r", "w", code=3)
    assert still_open(stand) == 1
    (found,) = call(stand, "dlq", "drop", three, "-r", "w")
    assert (found["noted_again"], still_open(stand)) == (1, 1)
    monkeypatch.setattr(checked, "_AT_WORK_S", -1.0)
    assert stand.verify().ok


def test_what_an_earlier_release_noted_is_read_on_and_signed_for_by_the_next_decision(stand: Stand) -> None:
    bury(stand, b"junk", off_list(0), b"{")
    one, two, three = ids(stand)
    book = LetterBook(stand.client)
    dropped, replayed = (
        LetterDecision(outcome=outcome, who="bob", why="long ago", at_s=1.0) for outcome in ("dropped", "replayed")
    )
    book.settle(LANE.use_case, one, "undecodable", dropped)
    book.settle(LANE.use_case, two, "off_list", replayed)
    states = {letter["id"]: letter["state"] for letter in call(stand, "dlq", "list")["letters"]}
    assert states == {one: "dropped", two: "replayed", three: "open"}
    found = call(stand, "verify")
    assert (found["ok"], found["letters"], found["letters_unsigned"]) == (True, 0, 2)
    call(stand, "dlq", "drop", three, "-r", "the first that is signed")
    assert [(record.kind, sorted(record.notes)) for record in chain(stand)] == [
        ("adopt", sorted([one, two])),
        ("drop", []),
    ]
    found = call(stand, "verify")
    assert (found["ok"], found["letters"], found["letters_unsigned"]) == (True, 2, 0)
    assert "sent again" in call(stand, "dlq", "reopen", two, "-r", "w", code=1)[0]["letters"][0]["why_not"]
    stand.client.hset(NOTES, two, msgspec.json.encode(msgspec.structs.replace(replayed, who="eve")))
    assert "not the one that an earlier release made" in call(stand, "verify", code=1)["problems"][0]
    stand.client.hset(NOTES, two, msgspec.json.encode(replayed))
    call(stand, "dlq", "reopen", one, "-r", "it can be mended")
    assert {letter["id"]: letter["state"] for letter in call(stand, "dlq", "list")["letters"]}[one] == "open"
    assert call(stand, "verify")["ok"]


def test_a_backup_carries_them_and_a_restore_notes_what_was_under_way(
    stand: Stand, empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bury(stand, b"junk", b"[")
    with old(monkeypatch):
        one, two = ids(stand)
        call(stand, "dlq", "drop", one, "-r", "w")
        call(stand, "dlq", "drop", two, "-r", "w")
    stand.client.hdel(NOTES, two)  # as a moment before it was noted
    stand.client.hincrby(f"{NOTES}:settled", "undecodable", -1)
    take(stand, tmp_path / "b", monkeypatch)
    keys_to(stand, empty)
    assert call_there("restore", tmp_path / "b", config=empty)["verified"]["letters"] == 2
    monkeypatch.setattr(checked, "_AT_WORK_S", -1.0)
    found = call_there("verify", config=empty)
    assert (found["ok"], found["letters_ok"]) == (True, True)
    told = call_there("dlq", "list", config=empty)["kinds"][0]
    assert (told["open"], told["dropped"]) == (0, 2)
    assert "is there already" in call_there("restore", tmp_path / "b", config=empty, code=4)
    assert call_there("restore", tmp_path / "b", "--force", config=empty)["verified"]["letters_ok"]
