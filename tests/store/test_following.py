"""Following a chain: each look is cheap, and whatever is done to the chain meanwhile is found within the minute."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from store.errors import BadSignatureError, BrokenChainError, RegistryError
from store.registry import chain as chain_module
from store.registry.files.durable import read_bounded
from store.registry.manifest import canonical_json
from store.registry.moves import Move, Moves, Standing, fold
from store.registry.registry import Registry
from store.registry.signing import SigningKey
from tests.store.drafts import LANE, OTHER_LANE, make_keys

MINUTE_S = 60.0  # in which a chain that is followed is verified as a whole
FIRST, SECOND, THIRD, FOURTH = ("a" * 16, "b" * 16, "c" * 16, "d" * 16)
Forge = Callable[["Followed"], None]


class Followed:
    """A chain of three promotions that somebody else writes, and the one who follows it, at second 0."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key, self.trusted = make_keys(folder / "keys")
        self.writer = self.moves("registry")
        for version in (FIRST, SECOND, THIRD):
            promote(self.writer, self.key, version)
        self.reader = self.moves("registry")
        self.directory = self.writer._directory
        assert self.reader.standing(0.0).champion == THIRD

    def moves(self, registry: str) -> Moves:
        return Registry(self.folder / registry, self.trusted).moves(LANE)

    def path(self, number: int) -> Path:
        return self.directory / f"{number:08d}.json"

    def put(self, number: int, data: bytes) -> None:
        self.path(number).unlink(missing_ok=True)
        self.path(number).write_bytes(data)

    def signed(self, place: int, key: SigningKey | None = None, **changes: object) -> None:
        """Put a move in a place, properly signed, that says something else than the newest one."""
        body = json.loads(self.path(3).read_bytes())["move"] | {"number": place} | changes
        signature = (key or self.key).sign(b"understudy/move/1\n" + canonical_json(body))
        self.put(place, canonical_json({"move": body, "signature": signature}))

    def next(self, **changes: object) -> None:
        """A fourth move by somebody who can only forge; what is not changed is right."""
        before = hashlib.sha256(self.path(3).read_bytes()).hexdigest()
        self.signed(4, **({"previous_sha256": before} | changes))  # type: ignore[arg-type]


@pytest.fixture
def followed(tmp_path: Path) -> Followed:
    return Followed(tmp_path)


def promote(moves: Moves, key: SigningKey, version: str) -> Move:
    return moves.append("promote", version=version, who="me", why="better", key=key, now_s=1.5)


def flipped(number: int) -> Forge:
    def forge(chain: Followed) -> None:
        data = bytearray(chain.path(number).read_bytes())
        data[len(data) // 2] ^= 1
        chain.put(number, bytes(data))

    return forge


def deleted(number: int) -> Forge:
    return lambda chain: chain.path(number).unlink()


def emptied(number: int) -> Forge:
    return lambda chain: chain.put(number, b"")


def replaced(number: int) -> Forge:
    return lambda chain: chain.signed(number, version=FOURTH)


def swapped(one: int, other: int) -> Forge:
    def forge(chain: Followed) -> None:
        data = chain.path(one).read_bytes()
        chain.put(one, chain.path(other).read_bytes())
        chain.put(other, data)

    return forge


def another_chain(chain: Followed) -> None:
    """Every file replaced by those of a whole chain that a trusted key signed."""
    other = chain.moves("other")
    for version in (FOURTH, THIRD, SECOND, FIRST):
        promote(other, chain.key, version)
    shutil.rmtree(chain.directory)
    shutil.copytree(other._directory, chain.directory)


def the_same_end(chain: Followed) -> None:
    """Only what came before the newest is from another chain."""
    newest = chain.path(3).read_bytes()
    another_chain(chain)
    chain.path(4).unlink()
    chain.put(3, newest)


def gone(chain: Followed) -> None:
    shutil.rmtree(chain.directory)


def a_gap(chain: Followed) -> None:
    for version in (FOURTH, FIRST):
        promote(chain.writer, chain.key, version)
    chain.path(4).unlink()


def by_a_stranger(chain: Followed) -> None:
    stranger, _ = make_keys(chain.folder / "stranger")
    chain.next(key=stranger)


OLD = [
    *(make(number) for make in (flipped, deleted, emptied, replaced) for number in (1, 2)),
    swapped(1, 2),
    the_same_end,
    a_gap,
]
NEW = [  # what a look sees at once: it begins with the newest
    *(make(3) for make in (flipped, deleted, emptied, replaced)),
    swapped(2, 3),
    another_chain,
    gone,
    by_a_stranger,
    lambda chain: chain.next(number=5),
    lambda chain: chain.next(previous_sha256="0" * 64),
    lambda chain: chain.next(lane={"tenant": OTHER_LANE.tenant, "use_case": OTHER_LANE.use_case}),
    lambda chain: chain.next(version=None),
    lambda chain: chain.next(schema=2),
    lambda chain: chain.put(4, b"{}"),
]


@pytest.mark.parametrize("forge", [*OLD, *NEW])
def test_whatever_is_done_to_a_chain_that_is_followed_is_found_within_the_minute(
    followed: Followed, forge: Forge
) -> None:
    forge(followed)
    assert refused(followed.reader, MINUTE_S)


@pytest.mark.parametrize("forge", NEW)
def test_what_is_done_to_the_newest_move_or_comes_after_it_is_found_at_the_next_look(
    followed: Followed, forge: Forge
) -> None:
    forge(followed)
    assert refused(followed.reader, 1.0)


def refused(moves: Moves, monotonic_s: float) -> bool:
    try:
        moves.standing(monotonic_s)
    except (BrokenChainError, BadSignatureError):
        return True
    return False


@pytest.mark.parametrize("forge", [*OLD, *NEW])
def test_a_chain_once_found_broken_is_refused_at_every_look_until_it_is_whole_again(
    followed: Followed, forge: Forge
) -> None:
    kept = followed.folder / "kept"
    shutil.copytree(followed.directory, kept)
    forge(followed)
    assert all(refused(followed.reader, MINUTE_S + second) for second in range(3))
    shutil.rmtree(followed.directory, ignore_errors=True)
    shutil.copytree(kept, followed.directory)
    assert followed.reader.standing(MINUTE_S + 3.0).champion == THIRD


@pytest.mark.parametrize("forge", OLD)
def test_a_broken_chain_takes_no_move_of_one_who_has_only_followed_it(followed: Followed, forge: Forge) -> None:
    followed.reader.standing(1.0)
    forge(followed)
    with pytest.raises((BrokenChainError, BadSignatureError)):
        promote(followed.reader, followed.key, FOURTH)


@pytest.mark.parametrize("forge", OLD)
def test_reading_verifies_the_whole_chain_however_lately_that_was_done(followed: Followed, forge: Forge) -> None:
    forge(followed)
    with pytest.raises((BrokenChainError, BadSignatureError)):
        followed.reader.read()


def test_a_new_move_is_followed_at_the_next_look(followed: Followed) -> None:
    promote(followed.writer, followed.key, FOURTH)
    assert followed.reader.standing(1.0) == fold(followed.writer.read())
    followed.writer.append("pin", version=None, who="ann", why="", key=followed.key, now_s=2.0)
    assert followed.reader.standing(2.0) == fold(followed.writer.read())
    assert followed.reader.standing(2.0).pinned


def test_a_chain_that_is_not_there_yet_leads_nowhere_and_is_followed_from_its_first_move_on(followed: Followed) -> None:
    new = followed.moves("new")
    assert new.standing(0.0) == new.standing(1.0) == Standing()
    promote(followed.moves("new"), followed.key, FIRST)
    assert new.standing(2.0).champion == FIRST


def test_the_cost_of_a_look_does_not_grow_with_the_chain(followed: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counted(path: Path, limit_bytes: int) -> bytes:
        read.append(path.name)
        return read_bounded(path, limit_bytes)

    monkeypatch.setattr(chain_module, "read_bounded", counted)
    followed.reader.standing(MINUTE_S - 1.0)
    assert read == ["00000003.json", "00000004.json"]
    read.clear()
    followed.reader.standing(MINUTE_S)
    assert read == ["00000001.json", "00000002.json", "00000003.json", "00000004.json"]
    read.clear()
    followed.reader.standing(MINUTE_S + 1.0)
    assert read == ["00000003.json", "00000004.json"]


def test_the_whole_is_due_again_a_minute_after_the_last_time_not_after_the_last_look(followed: Followed) -> None:
    for second in range(1, int(MINUTE_S)):
        followed.reader.standing(float(second))
    followed.path(1).unlink()
    with pytest.raises(RegistryError, match="gone after"):
        followed.reader.standing(MINUTE_S)
