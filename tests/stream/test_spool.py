"""The queue on disk."""

import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis.strategies import DataObject, binary, data, integers, lists

from store.errors import LogError, SpoolFullError
from stream.spool import Spool
from tests.power_cut import PowerCut, outcomes, recording

FILL = """
import sys
from pathlib import Path
from stream.spool import Spool
from tests.power_cut import PowerCut, outcomes, recording

spool = Spool(Path(sys.argv[1]), 1 << 20)
for number in range(10**9):
    spool.append(b"%d" % number).result()
    print(number, flush=True)
"""


def refuse(*_: object) -> None:
    message = "No space left on device"
    raise OSError(28, message)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def drain(spool: Spool, limit: int = 7) -> list[bytes]:
    """Everything, as if each batch were sent."""
    found: list[bytes] = []
    while batch := spool.head(limit):
        found += batch
        spool.advance(len(batch))
    return found


def append(spool: Spool, payloads: list[bytes]) -> None:
    for ack in [spool.append(payload) for payload in payloads]:
        ack.result(10)


@settings(max_examples=25, deadline=None)
@given(payloads=lists(binary(min_size=1, max_size=3000), max_size=30), limit=integers(1, 9))
def test_what_goes_in_comes_out_in_order_and_leaves_nothing(payloads: list[bytes], limit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder), 1 << 20)
        append(spool, payloads)
        assert spool.empty == (not payloads)
        assert drain(spool, limit) == payloads
        assert spool.empty
        spool.close()
        assert list(Path(folder).glob("*.spool")) == []


@settings(max_examples=25, deadline=None)
@given(payloads=lists(binary(min_size=1, max_size=2000), min_size=1, max_size=20), chance=data())
def test_a_torn_tail_costs_only_the_frames_it_tears(payloads: list[bytes], chance: DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder), 64 << 20)
        append(spool, payloads)
        spool.close()
        (segment,) = Path(folder).glob("*.spool")
        cut = chance.draw(integers(0, segment.stat().st_size))
        os.truncate(segment, cut)
        ends = [sum(8 + len(payload) for payload in payloads[: n + 1]) for n in range(len(payloads))]
        whole = sum(end <= cut for end in ends)
        again = Spool(Path(folder), 64 << 20)
        append(again, [b"after"])
        assert drain(again) == [*payloads[:whole], b"after"]
        again.close()


def test_a_tail_of_zeros_after_a_power_cut_is_cut_off(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 20)
    append(spool, [b"a", b"b"])
    spool.close()
    (segment,) = tmp_path.glob("*.spool")
    with segment.open("ab") as file:
        file.write(bytes(4096))
    again = Spool(tmp_path, 1 << 20)
    assert drain(again) == [b"a", b"b"]
    again.close()


def test_a_damaged_frame_is_skipped_and_the_ones_around_it_are_sent(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 20)
    append(spool, [b"first", b"second", b"third"])
    spool.close()
    (segment,) = tmp_path.glob("*.spool")
    content = bytearray(segment.read_bytes())
    content[content.index(b"second")] ^= 1
    segment.write_bytes(content)
    again = Spool(tmp_path, 1 << 20)
    assert drain(again) == [b"first", b"third"]
    assert again.empty
    again.close()


def test_what_was_not_sent_is_there_after_a_restart_and_what_was_sent_may_be(tmp_path: Path) -> None:
    payloads = [b"%04d" % n * 300 for n in range(60)]  # several segments
    spool = Spool(tmp_path, 16 * 8192)
    append(spool, payloads[:30])
    append(spool, payloads[30:])
    first = spool.head(20)  # of one segment: where one ends hangs on how many the writer took at once
    assert first == payloads[: len(first)]
    assert first
    assert spool.head(20) == first
    spool.advance(len(first))
    spool.close()
    again = Spool(tmp_path, 16 * 8192)
    found = drain(again)
    assert found[len(first) - 60 :] == payloads[len(first) :]
    assert found == payloads[-len(found) :]
    again.close()


@pytest.mark.parametrize("left", [[3], [2, 3], [9, 10], [1, 7]])
def test_what_an_earlier_process_left_is_sent_first_and_never_added_to(tmp_path: Path, left: list[int]) -> None:
    for number in left:
        before = Spool(tmp_path / str(number), 1 << 20)
        append(before, [b"left %d" % number])
        before.close()
        (tmp_path / str(number) / "0000000001.spool").rename(tmp_path / f"{number:010d}.spool")
    files = {path: path.read_bytes() for path in tmp_path.glob("*.spool")}
    spool = Spool(tmp_path, 1 << 20)
    append(spool, [b"new"])
    assert {path: path.read_bytes() for path in files} == files
    assert max(int(path.stem) for path in tmp_path.glob("*.spool")) == max(left) + 1
    spool.close()
    again = Spool(tmp_path, 1 << 20)
    assert drain(again) == [*(b"left %d" % number for number in left), b"new"]
    again.close()


def test_a_full_spool_refuses_and_takes_again_once_some_of_it_was_sent(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 10_000)
    append(spool, [b"x" * 1992] * 4)
    assert spool.bytes_kept == 8000
    append(spool, [b"x" * 1992])
    with pytest.raises(SpoolFullError, match="10000 bytes"):
        spool.append(b"y")
    assert len(drain(spool)) == 5
    append(spool, [b"y"])
    assert drain(spool) == [b"y"]
    spool.close()


def test_a_disk_that_refuses_fails_the_append_and_keeps_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path, 1 << 20)
    append(spool, [b"before"])

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        with pytest.raises(SpoolFullError, match="No space left"):
            spool.append(b"lost").result(10)
    append(spool, [b"after"])
    assert drain(spool) == [b"before", b"after"]
    assert spool.bytes_kept == 0
    spool.close()


def test_one_fsync_serves_all_that_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path, 1 << 20)
    calls: list[int] = []
    real = os.fsync

    def count(handle: int) -> None:
        calls.append(handle)
        real(handle)

    monkeypatch.setattr(os, "fsync", count)
    acks: list[Future[None]] = [spool.append(b"%d" % n) for n in range(1000)]
    for ack in acks:
        ack.result(10)
    assert len(calls) < 100
    assert drain(spool, 1000) == [b"%d" % n for n in range(1000)]
    spool.close()


def test_a_directory_belongs_to_one_process(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 20)
    with pytest.raises(LogError, match="another process"):
        Spool(tmp_path, 1 << 20)
    spool.close()
    Spool(tmp_path, 1 << 20).close()


def test_a_closed_spool_refuses(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 20)
    spool.close()
    with pytest.raises(SpoolFullError, match="closed"):
        spool.append(b"late")


def test_whatever_was_accepted_survives_kill_nine(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", FILL, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        accepted = [int(process.stdout.readline()) for _ in range(200)]
        process.send_signal(signal.SIGKILL)
        accepted += [int(line) for line in process.stdout.read().split("\n") if line.strip()]
    spool = Spool(tmp_path, 1 << 20)
    found = [int(payload) for payload in drain(spool)]
    spool.close()
    assert found[: len(accepted)] == accepted
    assert len(found) - len(accepted) <= 1  # one may have been written and not yet reported


def test_a_frame_says_its_length_and_crc(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 20)
    append(spool, [b"123456789"])
    spool.close()
    (segment,) = tmp_path.glob("*.spool")
    assert segment.read_bytes() == struct.pack("<II", 9, 0xCBF43926) + b"123456789"  # CRC-32's check value


def test_a_spool_that_cannot_be_opened_yet_drops_aloud_and_opens_once_it_can(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    earlier = Spool(folder, 1 << 20)
    append(earlier, [b"from before"])
    earlier.close()
    aside = folder.rename(tmp_path / "aside")
    folder.write_bytes(b"in its place")  # as on a disk without room, the directory cannot be made
    spool = Spool(folder, 1 << 20)
    with pytest.raises(SpoolFullError, match="could not be written"):
        spool.append(b"lost").result(10)
    assert spool.bytes_kept == 0
    folder.unlink()
    aside.rename(folder)
    until(lambda: not spool.empty)  # without anybody appending
    append(spool, [b"after"])
    assert drain(spool) == [b"from before", b"after"]
    spool.close()
    assert spool.empty


def test_a_disk_that_goes_on_refusing_leaves_neither_files_nor_segments_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path, 1 << 20)
    append(spool, [b"before"])
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        for number in range(50):
            with pytest.raises(SpoolFullError):
                spool.append(b"%d" % number).result(10)
    assert len(list(tmp_path.glob("*.spool"))) == len(spool._segments) == 1
    append(spool, [b"after"])
    assert drain(spool) == [b"before", b"after"]
    spool.close()


def test_a_segment_that_cannot_be_read_or_cut_keeps_no_gateway_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path, 1 << 20)
    append(spool, [b"kept"])
    spool.close()
    (segment,) = tmp_path.glob("*.spool")
    segment.write_bytes(segment.read_bytes() + b"\x09torn")
    (tmp_path / "0000000009.spool").mkdir()  # reads as an error
    (tmp_path / "notes.spool").write_bytes(b"not ours")
    monkeypatch.setattr(os, "truncate", refuse)
    again = Spool(tmp_path, 1 << 20)
    assert drain(again) == [b"kept"]
    append(again, [b"new"])
    assert drain(again) == [b"new"]
    again.close()


def test_nobody_else_can_read_it_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        spool = Spool(tmp_path / "spool", 1 << 20)
        append(spool, [b"secret"])
        spool.close()
    finally:
        os.umask(before)
    found = [tmp_path / "spool", *(tmp_path / "spool").iterdir()]
    assert [path for path in found if path.stat().st_mode & 0o077] == []
    assert len(found) == 3


def after_a_power_cut(power: PowerCut, aside: Path) -> Iterator[list[bytes]]:
    """What the next process finds, on each disk that a power cut now may leave."""
    aside.mkdir(exist_ok=True)
    for disk in outcomes(power, aside):
        spool = Spool(disk / "state" / "spool", 1 << 20)
        yield drain(spool, 100)
        spool.close()


def test_whatever_was_accepted_survives_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a state directory that was never there before, through a restart and several segments."""
    disk = tmp_path / "disk"
    disk.mkdir()
    accepted: list[bytes] = []
    with recording(disk, monkeypatch) as power:
        for start in (0, 20):
            spool = Spool(disk / "state" / "spool", 16 * 4096)
            for number in range(start, start + 20):
                accepted.append(b"%04d" % number * 200)
                spool.append(accepted[-1]).result(10)
                if number % 6 == 0:
                    assert all(found == accepted for found in after_a_power_cut(power, tmp_path / "aside"))
            spool.close()
        assert len(list((disk / "state" / "spool").glob("*.spool"))) > 2
        assert all(found == accepted for found in after_a_power_cut(power, tmp_path / "aside"))


def test_after_a_failed_fsync_nothing_is_accepted_into_the_same_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel calls the next fsync a success, and has thrown the bytes away."""
    disk = tmp_path / "disk"
    disk.mkdir()
    with recording(disk, monkeypatch) as power:
        spool = Spool(disk / "state" / "spool", 1 << 20)
        append(spool, [b"before"])
        power.fsyncs_to_fail = 1
        with pytest.raises(SpoolFullError, match="Input/output error"):
            spool.append(b"lost").result(10)
        append(spool, [b"after"])
        assert all(found == [b"before", b"after"] for found in after_a_power_cut(power, tmp_path / "aside"))
        spool.close()


def test_a_segment_whose_name_could_not_be_synced_accepts_nothing_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with recording(disk, monkeypatch) as power:
        spool = Spool(disk / "state" / "spool", 1 << 20)
        with monkeypatch.context() as patch:
            patch.setattr("stream.spool.sync_folder", refuse)
            with pytest.raises(SpoolFullError, match="No space left"):
                spool.append(b"lost").result(10)
        append(spool, [b"after"])
        assert all(found == [b"after"] for found in after_a_power_cut(power, tmp_path / "aside"))
        spool.close()


def test_what_is_cut_off_a_segment_after_a_failed_write_is_never_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its frames are whole, but nobody was told that they were kept: the caller has dropped the event and said so."""
    spool = Spool(tmp_path, 1 << 20)
    append(spool, [b"before"])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(SpoolFullError):
            spool.append(b"lost").result(10)
    spool.close()
    again = Spool(tmp_path, 1 << 20)
    assert drain(again) == [b"before"]
    again.close()


def test_an_append_is_done_only_once_it_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path, 1 << 20)
    done: list[bool] = []
    fsync = os.fsync
    ack: list[Future[None]] = []
    queued = threading.Event()

    def look(handle: int) -> None:
        assert queued.wait(10)
        done.append(ack[0].done())
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", look)
        ack.append(spool.append(b"x"))
        queued.set()
        ack[0].result(10)
    assert done == [False, False]  # the file's and its folder's
    spool.close()


def test_a_segment_that_was_sent_whole_is_not_deleted_while_more_is_written_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path, 1 << 20)
    append(spool, [b"first"])
    assert spool.head(1) == [b"first"]
    writing, go_on = threading.Event(), threading.Event()
    fsync = os.fsync

    def slow(handle: int) -> None:
        writing.set()
        assert go_on.wait(20)
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", slow)
        ack = spool.append(b"second")
        assert writing.wait(20)
        spool.advance(1)  # now everything below its size is sent
        assert spool.head(1) == []
        go_on.set()
        ack.result(20)
    spool.close()
    again = Spool(tmp_path, 1 << 20)
    assert drain(again)[-1:] == [b"second"]
    again.close()
