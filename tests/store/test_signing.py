"""Signatures and the keys that make them."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.errors import BadSignatureError, SettingsError
from store.registry.signing import Signature, SigningKey, TrustedKeys, public_path
from tests.store.drafts import make_keys


def test_a_signature_names_the_key_that_made_it(tmp_path: Path) -> None:
    key, trusted = make_keys(tmp_path, "operator")
    assert trusted.verify(b"bytes", key.sign(b"bytes")) == "operator"
    assert SigningKey.load(tmp_path / "operator").name == "operator"


def test_a_loaded_key_signs_as_the_created_one_did(tmp_path: Path) -> None:
    key, _ = make_keys(tmp_path)
    assert SigningKey.load(tmp_path / "trainer").sign(b"x") == key.sign(b"x")


@given(data=st.binary(min_size=1, max_size=64), position=st.integers(min_value=0), bit=st.integers(0, 7))
def test_one_flipped_bit_of_the_signed_bytes_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, position: int, bit: int
) -> None:
    key, trusted = make_keys(tmp_path_factory.mktemp("keys"))
    changed = bytearray(data)
    changed[position % len(data)] ^= 1 << bit
    with pytest.raises(BadSignatureError):
        trusted.verify(bytes(changed), key.sign(data))


def test_every_changed_digit_of_a_signature_is_refused(tmp_path: Path) -> None:
    key, trusted = make_keys(tmp_path)
    good = key.sign(b"bytes")
    for index, digit in enumerate(good.value):
        changed = good.value[:index] + ("0" if digit != "0" else "1") + good.value[index + 1 :]
        with pytest.raises(BadSignatureError):
            trusted.verify(b"bytes", msgspec.structs.replace(good, value=changed))


def test_a_key_that_is_not_trusted_is_refused_whatever_it_calls_itself(tmp_path: Path) -> None:
    _, trusted = make_keys(tmp_path / "ours")
    stranger, _ = make_keys(tmp_path / "theirs")
    with pytest.raises(BadSignatureError, match="not among the trusted"):
        trusted.verify(b"bytes", stranger.sign(b"bytes"))


def test_a_signature_under_another_trusted_keys_id_is_refused(tmp_path: Path) -> None:
    first, _ = make_keys(tmp_path, "trainer")
    second, trusted = make_keys(tmp_path, "operator")
    swapped = Signature(key_id=first.sign(b"").key_id, value=second.sign(b"bytes").value)
    with pytest.raises(BadSignatureError, match="not one that key trainer made"):
        trusted.verify(b"bytes", swapped)


def test_a_private_key_is_for_its_owner_alone(tmp_path: Path) -> None:
    make_keys(tmp_path)
    path = tmp_path / "trainer"
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    with pytest.raises(SettingsError, match="chmod 600"):
        SigningKey.load(path)


def test_a_private_key_is_never_overwritten(tmp_path: Path) -> None:
    make_keys(tmp_path)
    before = (tmp_path / "trainer").read_bytes()
    with pytest.raises(FileExistsError):
        SigningKey.create(tmp_path / "trainer", "trainer")
    assert (tmp_path / "trainer").read_bytes() == before


def test_a_public_key_holds_nothing_of_the_private_one(tmp_path: Path) -> None:
    make_keys(tmp_path)
    secret = msgspec.json.decode((tmp_path / "trainer").read_bytes())["private"]
    assert secret not in public_path(tmp_path / "trainer").read_text()


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"name":"x","private":"00"}'])
def test_a_broken_private_key_is_refused_without_being_quoted(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "trainer"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(SettingsError, match="is not a key") as raised:
        SigningKey.load(path)
    assert raised.value.__cause__ is None


@pytest.mark.parametrize("name", ["", "a b", "../x", "a\n", "x" * 64])
def test_a_key_name_that_would_garble_a_line_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match="key name"):
        SigningKey.create(tmp_path / "key", name)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_trusted_keys_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="understudy init"):
        TrustedKeys.load(tmp_path)
    with pytest.raises(SettingsError, match="understudy init"):
        TrustedKeys.load(tmp_path / "absent")


def test_a_trusted_key_that_anybody_may_overwrite_is_refused(tmp_path: Path) -> None:
    make_keys(tmp_path)
    (tmp_path / "trusted" / "trainer.pub").chmod(0o666)
    with pytest.raises(SettingsError, match="chmod o-w"):
        TrustedKeys.load(tmp_path / "trusted")


def test_a_broken_trusted_key_stops_the_start(tmp_path: Path) -> None:
    make_keys(tmp_path)
    (tmp_path / "trusted" / "zz.pub").write_text("not a key")
    with pytest.raises(SettingsError, match=r"zz\.pub"):
        TrustedKeys.load(tmp_path / "trusted")
