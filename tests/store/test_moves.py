"""The chain of moves: nothing in it can be changed, and one writer wins each number."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from store.errors import BadSignatureError, BrokenChainError, MoveConflictError, RegistryError
from store.registry import chain as chain_module
from store.registry.files import durable
from store.registry.manifest import canonical_json
from store.registry.moves import Move, MoveKind, Moves
from store.registry.registry import Registry
from store.registry.signing import SigningKey
from tests.store.drafts import LANE, OTHER_LANE, make_keys

Chain = tuple[Moves, SigningKey, Path]
FIRST, SECOND, THIRD = "a" * 16, "b" * 16, "c" * 16


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    key, trusted = make_keys(tmp_path / "keys")
    return Registry(tmp_path / "registry", trusted).moves(LANE), key, tmp_path


def promote(moves: Moves, key: SigningKey, version: str, expected: int | None = None) -> Move:
    return moves.append("promote", version=version, who="me", why="better", key=key, now_s=1.5, expected=expected)


def fresh(moves: Moves) -> Moves:
    """The same chain, read by somebody who has verified nothing yet."""
    return Moves(moves._directory, moves._trusted, moves.owner)


def paths(moves: Moves) -> list[Path]:
    return sorted(moves._directory.glob("*.json"))


def resign(path: Path, key: SigningKey, **changes: object) -> None:
    """Edit a move and sign it again."""
    body = json.loads(path.read_bytes())["move"] | changes
    signature = key.sign(b"understudy/move/1\n" + canonical_json(body))
    path.chmod(0o644)
    path.write_bytes(canonical_json({"move": body, "signature": signature}))


def test_moves_are_read_as_they_were_appended(chain: Chain) -> None:
    moves, key, _ = chain
    assert moves.read() == []
    first = promote(moves, key, FIRST)
    second = moves.append("rollback", version=SECOND, who="ann", why="wrong in French", key=key, now_s=2.5)
    third = moves.append("resume", version=None, who="ann", why="", key=key, now_s=3.5)
    assert [move.number for move in (first, second, third)] == [1, 2, 3]
    assert moves.read() == fresh(moves).read() == [first, second, third]
    assert [path.name for path in paths(moves)] == ["00000001.json", "00000002.json", "00000003.json"]
    assert second.previous_sha256 != first.previous_sha256 == "0" * 64


def test_any_flipped_byte_of_a_move_is_refused(chain: Chain) -> None:
    moves, key, _ = chain
    promote(moves, key, FIRST)
    promote(moves, key, SECOND)
    for path in paths(moves):
        good = path.read_bytes()
        path.chmod(0o644)
        for index in range(len(good)):
            bad = bytearray(good)
            bad[index] ^= 0x20  # turns a into A: the same hex digit, another byte
            path.write_bytes(bytes(bad))
            with pytest.raises((BadSignatureError, BrokenChainError)):
                fresh(moves).read()
        with pytest.raises(BrokenChainError, match="changed after"):
            moves.read()
        path.write_bytes(good)
    assert len(moves.read()) == len(fresh(moves).read()) == 2


def test_a_deleted_move_breaks_the_chain(chain: Chain) -> None:
    moves, key, _ = chain
    for version in (FIRST, SECOND, THIRD):
        promote(moves, key, version)
    for path in paths(moves)[:2]:
        kept = path.read_bytes()
        path.unlink()
        with pytest.raises(BrokenChainError, match="missing"):
            fresh(moves).read()
        with pytest.raises(BrokenChainError, match="gone after"):
            moves.read()
        path.write_bytes(kept)


def test_a_deleted_newest_move_is_noticed_by_whoever_has_read_it(chain: Chain) -> None:
    moves, key, _ = chain
    promote(moves, key, FIRST)
    promote(moves, key, SECOND)
    paths(moves)[-1].unlink()
    with pytest.raises(BrokenChainError, match="gone after"):
        moves.read()


def test_reordered_moves_break_the_chain(chain: Chain) -> None:
    moves, key, _ = chain
    for version in (FIRST, SECOND, THIRD):
        promote(moves, key, version)
    first, second, third = paths(moves)
    for one, other in ((first, second), (second, third), (first, third)):
        swap(one, other)
        with pytest.raises(BrokenChainError, match="does not follow"):
            fresh(moves).read()
        swap(one, other)
    assert len(fresh(moves).read()) == 3


def swap(one: Path, other: Path) -> None:
    aside = one.with_suffix(".aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


@pytest.mark.parametrize("number", [1, 2])
def test_a_move_replaced_by_one_that_a_trusted_key_signed_breaks_the_chain_after_it(chain: Chain, number: int) -> None:
    moves, key, _ = chain
    for version in (FIRST, SECOND, THIRD):
        promote(moves, key, version)
    resign(paths(moves)[number - 1], key, version="d" * 16)
    with pytest.raises(BrokenChainError, match=f"move {number + 1}"):
        fresh(moves).read()


def test_an_edited_move_is_refused_for_its_signature(chain: Chain) -> None:
    moves, key, _ = chain
    promote(moves, key, FIRST)
    path = paths(moves)[0]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b'"promote"', b'"decline"'))
    with pytest.raises(BadSignatureError, match=path.name):
        fresh(moves).read()


def test_a_move_signed_by_an_unknown_key_is_refused_and_the_ones_before_it_were_fine(chain: Chain) -> None:
    moves, key, folder = chain
    promote(moves, key, FIRST)
    promote(moves, key, SECOND)
    stranger, _ = make_keys(folder / "stranger")
    resign(paths(moves)[1], stranger)
    with pytest.raises(BadSignatureError, match="not among the trusted"):
        fresh(moves).read()


def test_a_key_that_nobody_trusts_cannot_spoil_the_chain(chain: Chain) -> None:
    moves, key, folder = chain
    promote(moves, key, FIRST)
    stranger, _ = make_keys(folder / "stranger")
    with pytest.raises(BadSignatureError):
        promote(moves, stranger, SECOND)
    assert len(fresh(moves).read()) == 1


def test_moves_of_one_lane_cannot_be_replayed_in_another(chain: Chain) -> None:
    moves, key, folder = chain
    promote(moves, key, FIRST)
    theirs = Registry(folder / "registry", moves._trusted).moves(OTHER_LANE)
    shutil.copytree(moves._directory, theirs._directory)
    with pytest.raises(BrokenChainError, match="acme/intents"):
        theirs.read()


@pytest.mark.parametrize(
    "changes",
    [
        {"version": None},
        {"kind": "pin"},
        {"kind": "erase"},
        {"kind": "rollback", "anchor": True},
        {"kind": "rollback", "candidate": SECOND},
        {"schema": 2},
        {"number": 2},
        {"zeal": 1},
        {"version": "../../../../x"},
        {"version": "a" * 16 + "\n"},
    ],
)
def test_a_signed_move_that_makes_no_sense_is_refused(chain: Chain, changes: dict[str, object]) -> None:
    moves, key, _ = chain
    promote(moves, key, FIRST)
    resign(paths(moves)[0], key, **changes)
    with pytest.raises(BrokenChainError):
        fresh(moves).read()


@pytest.mark.parametrize("size", [0, 1, 65 << 10])
def test_an_empty_cut_or_huge_move_is_refused(chain: Chain, size: int) -> None:
    moves, key, _ = chain
    promote(moves, key, FIRST)
    path = paths(moves)[0]
    path.chmod(0o644)
    path.write_bytes((path.read_bytes() + b" " * size)[-size:] if size else b"")
    with pytest.raises(RegistryError):
        fresh(moves).read()


@pytest.mark.parametrize(
    ("old", "new"), [(b"}}", b"}}\n"), (b'"move":', b'"move": '), (b'{"move":', b'{"move":{},"move":')]
)
def test_another_spelling_of_a_signed_move_is_refused(chain: Chain, old: bytes, new: bytes) -> None:
    moves, key, _ = chain
    promote(moves, key, FIRST)
    path = paths(moves)[0]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(BrokenChainError, match="canonical"):
        fresh(moves).read()


def test_files_of_other_names_are_no_moves(chain: Chain) -> None:
    moves, key, _ = chain
    promote(moves, key, FIRST)
    for name in ("00000002.json.bak", "2.json", "notes.txt", ".00000002-x.tmp"):
        (moves._directory / name).write_text("x")
    assert len(moves.read()) == 1


@pytest.mark.parametrize(
    ("kind", "version", "anchor"),
    [("promote", None, False), ("pin", FIRST, False), ("resume", FIRST, False), ("rollback", FIRST, True)],
)
def test_a_move_that_makes_no_sense_is_not_written(
    chain: Chain, kind: MoveKind, version: str | None, *, anchor: bool
) -> None:
    moves, key, _ = chain
    with pytest.raises(RegistryError):
        moves.append(kind, version=version, who="me", why="", key=key, now_s=1.0, anchor=anchor)
    assert moves.read() == []


@pytest.mark.parametrize(
    "changes", [{"who": ""}, {"who": "x" * 201}, {"why": "x" * 2001}, {"version": "../x"}, {"now_s": float("nan")}]
)
def test_a_malformed_field_is_not_written(chain: Chain, changes: dict[str, object]) -> None:
    moves, key, _ = chain
    arguments = {"version": FIRST, "who": "me", "why": "", "key": key, "now_s": 1.0} | changes
    with pytest.raises(RegistryError, match="cannot be written"):
        moves.append("promote", **arguments)  # type: ignore[arg-type]
    assert moves.read() == []


def test_the_expected_number_must_be_the_next(chain: Chain) -> None:
    moves, key, _ = chain
    promote(moves, key, FIRST, expected=1)
    for wrong in (0, 1, 3):
        with pytest.raises(MoveConflictError):
            promote(moves, key, SECOND, expected=wrong)
    assert promote(moves, key, SECOND, expected=2).number == 2


def test_a_writer_without_an_expectation_takes_the_next_number_after_losing_a_race(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves, key, _ = chain
    rival = fresh(moves)
    write = durable.write_new
    pending = [FIRST]

    def raced(path: Path, data: bytes) -> None:
        if pending:
            promote(rival, key, pending.pop())
        write(path, data)

    monkeypatch.setattr(chain_module, "write_new", raced)
    assert promote(moves, key, SECOND).number == 2
    pending.append(THIRD)
    with pytest.raises(MoveConflictError):
        promote(moves, key, "d" * 16, expected=3)
    assert [move.version for move in fresh(moves).read()] == [FIRST, SECOND, THIRD]
    assert list(moves._directory.glob(".*")) == []


def test_a_writer_whose_unfinished_file_the_winner_swept_away_has_lost(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves, key, _ = chain
    rival = fresh(moves)
    write = durable.write_new

    def raced(path: Path, data: bytes) -> None:
        write(path, data)
        monkeypatch.setattr(chain_module, "write_new", write)
        promote(rival, key, FIRST)
        assert not path.exists()

    monkeypatch.setattr(chain_module, "write_new", raced)
    with pytest.raises(MoveConflictError):
        promote(moves, key, SECOND, expected=1)
    assert [move.version for move in fresh(moves).read()] == [FIRST]


RACER = """
import sys
from pathlib import Path
from store.errors import MoveConflictError
from store.registry.signing import SigningKey, TrustedKeys
from store.registry.registry import Registry
from tests.store.drafts import LANE
folder, me = Path(sys.argv[1]), sys.argv[2]
key = SigningKey.load(folder / "keys" / "trainer")
moves = Registry(folder / "registry", TrustedKeys.load(folder / "keys" / "trusted")).moves(LANE)
for number in range(1, 41):
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        moves.append("promote", version=me * 16, who=me, why="", key=key, now_s=1.0, expected=number)
        print("won", flush=True)
    except MoveConflictError:
        print("lost", flush=True)
"""


def test_of_two_processes_racing_for_one_number_exactly_one_wins(chain: Chain) -> None:
    moves, _, folder = chain
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(folder), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        for name in ("a", "b")
    ]
    winners = ""
    try:
        for _ in range(40):
            assert [told(racer) for racer in racers] == ["ready", "ready"]
            for racer in racers:
                assert racer.stdin is not None
                racer.stdin.write("go\n")
            outcome = [told(racer) for racer in racers]
            assert sorted(outcome) == ["lost", "won"]
            winners += "ab"[outcome.index("won")]
    finally:
        for racer in racers:
            racer.communicate(timeout=30)
    assert [move.version for move in moves.read()] == [winner * 16 for winner in winners]
    assert list(moves._directory.glob(".*")) == []


def told(racer: subprocess.Popen[str]) -> str:
    assert racer.stdout is not None
    return racer.stdout.readline().strip()


def test_a_kill_at_any_moment_of_an_append_leaves_no_move_or_a_whole_one(chain: Chain) -> None:
    moves, key, folder = chain
    promote(moves, key, FIRST)
    start = folder / "crashes" / "start"
    start.mkdir(parents=True)
    for name in ("keys", "registry"):
        shutil.move(folder / name, start / name)
    run = subprocess.run(
        [sys.executable, "-m", "tests.store.crash_publish", "append", str(start.parent)],
        capture_output=True,
        check=True,
        text=True,
    )
    count = int(run.stdout)
    assert count > 10
    lengths = set()
    for number in range(1, count + 1):
        survivor = Registry(start.parent / str(number) / "registry", moves._trusted).moves(LANE)
        found = survivor.read()
        lengths.add(len(found))
        assert promote(survivor, key, THIRD).number == len(found) + 1
        assert list(survivor._directory.glob("*.tmp")) == []
    assert lengths == {1, 2}


def test_a_reader_between_two_quick_appends_sees_no_gap(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    moves, key, _ = chain
    writer = fresh(moves)
    numbers = Moves._numbers
    pending = [FIRST, SECOND]

    def raced(self: Moves) -> list[int]:
        while self is moves and pending:
            promote(writer, key, pending.pop(0))
        return numbers(self)

    monkeypatch.setattr(Moves, "_numbers", raced)
    assert [move.version for move in moves.read()] == [FIRST, SECOND]


def test_a_full_disk_is_told_and_leaves_the_chain_whole(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    moves, key, _ = chain
    promote(moves, key, FIRST)

    def full(path: Path, data: bytes) -> None:
        path.write_bytes(data[:10])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(chain_module, "write_new", full)
        with pytest.raises(RegistryError, match="No space left"):
            promote(moves, key, SECOND)
    assert promote(moves, key, SECOND).number == 2
    assert list(moves._directory.glob(".*")) == []


def test_reading_needs_no_write_permission(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    moves, key, _ = chain
    promote(moves, key, FIRST)
    opened: Callable[..., int] = os.open

    def read_only(path: str, flags: int, *rest: int) -> int:
        assert not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        return opened(path, flags, *rest)

    monkeypatch.setattr(os, "open", read_only)
    assert len(fresh(moves).read()) == 1
