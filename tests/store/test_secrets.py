"""The data secret and what derives from it."""

import re
import stat
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.errors import SettingsError
from store.event import Lane, TextInput
from store.secrets import DataSecret, item_id, subject_token, unit_hash
from store.tasks.classify import ClassifyRules

SECRET = DataSecret(bytes(range(32)))


def test_a_new_secret_is_private_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "data.secret"
    DataSecret.create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(DataSecret.load(path).value) == 32
    with pytest.raises(FileExistsError):
        DataSecret.create(path)


@pytest.mark.parametrize("text", ["", "zz", "ab" * 31, "ab" * 33])
def test_a_damaged_secret_stops_the_start(tmp_path: Path, text: str) -> None:
    path = tmp_path / "data.secret"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(SettingsError, match="hex digits"):
        DataSecret.load(path)


def test_a_secret_that_others_can_read_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "data.secret"
    DataSecret.create(path)
    path.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        DataSecret.load(path)


def test_a_secret_is_not_printed() -> None:
    assert "0x" not in repr(SECRET)
    assert str(SECRET.value) not in repr(SECRET)


def test_every_purpose_has_its_own_key() -> None:
    lane, other = Lane("a", "u"), Lane("b", "u")
    keys = {
        SECRET.lane_key(lane),
        SECRET.lane_key(other),
        SECRET.redaction_key(lane),
        SECRET.subject_key(lane),
        SECRET.audit_key(lane),
        SECRET.dead_letter_key(date(2026, 1, 1)),
        SECRET.dead_letter_key(date(2026, 1, 2)),
    }
    assert len(keys) == 7


def test_equal_texts_of_two_lanes_have_unrelated_ids() -> None:
    question = TextInput(text="where is it?")
    one = item_id(SECRET.lane_key(Lane("a", "u")), ClassifyRules(), question)
    two = item_id(SECRET.lane_key(Lane("b", "u")), ClassifyRules(), question)
    assert one != two
    assert len(one) == len(two) == 32


@given(subject=st.one_of(st.text(), st.text().map("subject:{}".format), st.from_regex("subject:[0-9a-f]{40}")))
def test_a_subject_becomes_one_token_and_a_token_stays(subject: str) -> None:
    key = SECRET.subject_key(Lane("a", "u"))
    token = subject_token(key, subject)
    assert re.fullmatch("subject:[0-9a-f]{40}", token)
    assert token != subject, "what only looks like a token is a subject as any other"
    assert subject_token(key, token) == token
    assert subject_token(SECRET.subject_key(Lane("b", "u")), subject) != token


@given(st.text(), st.text())
def test_a_unit_hash_is_in_the_unit_interval(salt: str, identifier: str) -> None:
    assert 0.0 <= unit_hash(salt, identifier) < 1.0


def test_unit_hashes_are_spread_evenly() -> None:
    values = [unit_hash("salt", str(n)) for n in range(10_000)]
    for low in range(10):
        assert 850 < sum(low / 10 <= value < (low + 1) / 10 for value in values) < 1150
