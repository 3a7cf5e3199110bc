"""What is damaged, foreign, missing, in the way or cut short is said, and nothing is half restored."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import redis
import zstandard
from typer.testing import CliRunner

from ops.backup.putting import Target
from ops.cli.app import app
from ops.exits import RefusedError
from ops.processes.process import exclusive
from ops.processes.run.start import refuse_half_restored
from ops.settings import Settings
from ops.site import Site
from ops.state.restoring import half_restored
from store.copies.put import Putting
from store.registry.signing import SigningKey
from store.secrets import DataSecret
from tests.golden.stored import dump
from tests.ops.backups import URL, call, keys_to, old, take
from tests.ops.children import REPOSITORY
from tests.ops.sites import LANE
from tests.ops.stand import Stand, until


class Killed(BaseException):
    """As if the process ended here."""


@pytest.fixture
def made(stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A backup of an installation with versions and a log."""
    stand.send(30)
    to = tmp_path / "backup.tar.zst"
    take(stand, to, monkeypatch)
    return to


@pytest.fixture
def applied(stand: Stand) -> None:
    """The log has become items, too; ask for it before `made`."""
    with stand.ingesting():
        stand.send(30)
        until_applied(stand, 30)


def until_applied(stand: Stand, count: int) -> None:
    until(lambda: stand.counters.counted == count)


def content(url: str) -> dict[str, Any]:
    """All that lies in Redis, but for what says who is alive."""
    with redis.Redis.from_url(url) as client:
        return {name: entry for name, entry in dump(client).items() if not entry.get("expires")}


def nothing_written(empty: Path) -> bool:
    """Whether an empty machine is as empty as it was, but for the keys that were brought."""
    with redis.Redis.from_url(os.environ[URL]) as client:  # noqa: TID251 - as the test has set it
        left = client.keys("*")
    found = [path for path in empty.parent.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return not left and all("keys" in path.parts or path.name == "data.secret" for path in found)


@pytest.mark.usefixtures("applied")
def test_what_is_restored_is_what_was_there(stand: Stand, made: Path, empty: Path, redis_url: str) -> None:
    keys_to(stand, empty)
    before = content(redis_url)
    assert call("restore", made, "--dry-run", config=empty)["done"] is False
    assert nothing_written(empty)
    assert call("restore", made, config=empty)["verified"]["ok"]
    assert content(os.environ[URL]) == before  # noqa: TID251 - as above
    assert len(before) > 20
    for name in ("prompts/classify.txt", "understudy.toml"):
        assert (empty.parent / name).read_bytes() == (stand.path.parent / name).read_bytes()
    roots = [Settings.load(path).state_dir / "registry" for path in (stand.path, empty)]
    (there, here) = ({p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()} for root in roots)
    there.pop(Path(".lock"))
    assert here == there
    linked = next(path for path in (roots[1] / "blobs").iterdir())
    assert linked.stat().st_nlink > 1, "each file is kept once"


def test_a_backup_that_is_cut_short_or_changed_is_refused(stand: Stand, made: Path, empty: Path) -> None:
    keys_to(stand, empty)
    whole = made.read_bytes()
    for share in (0.0, 0.1, 0.5, 0.9, 0.99):
        made.write_bytes(whole[: int(len(whole) * share)])
        assert "take another one" in call("restore", made, config=empty, code=1).lower()
    for share in (0.02, 0.3, 0.6, 0.95):
        changed = bytearray(whole)
        changed[int(len(whole) * share)] ^= 0x40
        made.write_bytes(changed)
        call("restore", made, config=empty, code=1)
    assert nothing_written(empty)


def rewritten(made: Path, change: Any) -> None:
    """The same archive with its members changed: (name, data) -> members to write, or none."""
    with made.open("rb") as file:
        plain = zstandard.ZstdDecompressor().stream_reader(file).read()
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar, tarfile.open(fileobj=out, mode="w") as new:
        for member in tar.getmembers():
            inside = tar.extractfile(member)
            assert inside is not None
            for info, data in change(member, inside.read()):
                info.size = len(data)
                new.addfile(info, io.BytesIO(data))
    made.write_bytes(zstandard.ZstdCompressor().compress(out.getvalue()))


def _with_other(name: str) -> Any:
    def change(member: tarfile.TarInfo, data: bytes) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
        if member.name == "redis/keys":
            yield tarfile.TarInfo(name), b"gotcha"
        yield member, data

    return change


def test_a_member_that_would_lie_outside_is_refused(stand: Stand, made: Path, empty: Path) -> None:
    keys_to(stand, empty)
    whole = made.read_bytes()
    for name in ("../evil", "/tmp/evil", "state/../../evil", "redis\\evil"):  # noqa: S108
        made.write_bytes(whole)
        rewritten(made, _with_other(name))
        assert "none of ours" in call("restore", made, config=empty, code=1)
    assert nothing_written(empty)
    assert not list(empty.parents[1].rglob("evil"))


def test_a_link_is_no_member(stand: Stand, made: Path, empty: Path) -> None:
    def change(member: tarfile.TarInfo, data: bytes) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
        if member.name == "redis/keys":
            link = tarfile.TarInfo("state/run/link")
            link.type = tarfile.SYMTYPE
            yield link, b""
        yield member, data

    keys_to(stand, empty)
    rewritten(made, change)
    assert "no plain file" in call("restore", made, config=empty, code=1)
    assert nothing_written(empty)


def test_a_member_that_nobody_signed_for_is_refused(stand: Stand, made: Path, empty: Path) -> None:
    keys_to(stand, empty)
    rewritten(made, _with_other("state/run/swaps.jsonl"))
    assert "state/run/swaps.jsonl" in call("restore", made, config=empty, code=1)


def test_a_later_format_is_said_to_be_one(stand: Stand, made: Path, empty: Path) -> None:
    def change(member: tarfile.TarInfo, data: bytes) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
        yield member, data.replace(b'"schema":1', b'"schema":7') if member.name == "backup.json" else data

    keys_to(stand, empty)
    rewritten(made, change)
    assert "a later release" in call("restore", made, config=empty, code=1)


def test_a_manifest_that_was_changed_is_not_believed(stand: Stand, made: Path, empty: Path) -> None:
    def change(member: tarfile.TarInfo, data: bytes) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
        if member.name == "backup.json":
            said = json.loads(data)
            said["release"] = "9.9.9"
            data = json.dumps(said).encode()
        yield member, data

    keys_to(stand, empty)
    rewritten(made, change)
    assert "signature" in call("restore", made, config=empty, code=1)
    assert nothing_written(empty)


def test_without_keys_it_says_which_are_needed(stand: Stand, made: Path, empty: Path) -> None:
    empty.parent.mkdir()
    said = call("restore", made, config=empty, code=2)
    for needed in ("data.secret", "keys/trusted", "keys/trainer", "keys/operator"):
        assert str(empty.parent / needed) in said
    assert SigningKey.load(stand.path.parent / "keys" / "operator").key_id in said
    assert nothing_written(empty)


def test_another_data_secret_is_refused(stand: Stand, made: Path, empty: Path) -> None:
    keys_to(stand, empty)
    (empty.parent / "data.secret").unlink()
    DataSecret.create(empty.parent / "data.secret")
    assert "every item would be unknown" in call("restore", made, config=empty, code=2)
    assert nothing_written(empty)


def test_a_backup_of_strangers_is_refused(stand: Stand, made: Path, empty: Path) -> None:
    keys_to(stand, empty)
    shutil.rmtree(empty.parent / "keys")
    (empty.parent / "keys" / "trusted").mkdir(parents=True)
    key = SigningKey.create(empty.parent / "keys" / "operator", "operator")
    key.write_public(empty.parent / "keys" / "trusted" / "operator.pub")
    assert "not among the trusted keys" in call("restore", made, config=empty, code=1)


def test_with_keys_an_empty_machine_needs_nothing_else(
    stand: Stand, empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = take(stand, tmp_path / "whole", monkeypatch, "--with-keys")
    assert "who has this file" in report["notes"][0]
    found = call("restore", tmp_path / "whole", config=empty)
    assert found["verified"]["ok"]
    assert found["signed_by"] is None
    assert "vouches" in found["notes"][0]
    for name in ("data.secret", "keys/operator", "keys/trainer"):
        assert (empty.parent / name).read_bytes() == (stand.path.parent / name).read_bytes()
        assert (empty.parent / name).stat().st_mode & 0o777 == 0o600


@pytest.mark.usefixtures("applied")
def test_what_is_there_is_refused_and_with_force_moved_aside(stand: Stand, made: Path, redis_url: str) -> None:
    with stand.ingesting():
        stand.send(5, questions=1000)
        until_applied(stand, 65)
    later = content(redis_url)
    said = call("restore", made, config=stand.path, code=4)
    assert "keys of these lanes" in said
    assert content(redis_url) == later
    found = call("restore", made, "--force", config=stand.path)
    assert found["verified"]["ok"]
    assert stand.counters.counted == 30
    now = content(redis_url)
    aside = {name.partition(":")[2] for name in now if name.startswith("{before-")}
    assert aside == set(later)
    assert any("registry" in one for one in found["moved_aside"])
    assert all(Path(one).exists() for one in found["moved_aside"] if one.startswith("/"))


@pytest.mark.parametrize("where", ["stage", "place", "swap", "after"])
@pytest.mark.parametrize("force", [False, True])
def test_killed_anywhere_it_goes_on_and_nothing_starts_meanwhile(
    stand: Stand,
    made: Path,
    empty: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    force: bool,  # noqa: FBT001 - pytest gives it by name
) -> None:
    keys_to(stand, empty)
    if force:
        call("restore", made, config=empty)
    options = ["--force"] if force else []

    def kill(kind: Any, name: str, *, afterwards: bool = False) -> None:
        real = getattr(kind, name)

        def dies(*arguments: Any, **named: Any) -> Any:
            if afterwards:
                real(*arguments, **named)
            raise Killed

        context.setattr(kind, name, dies)

    with monkeypatch.context() as context:
        match where:
            case "stage":
                kill(Target, "stage", afterwards=True)
            case "place":
                kill(Target, "place")
            case "swap":
                kill(Putting, "swap")
            case _:
                kill(Target, "place", afterwards=True)
        with pytest.raises(Killed):
            CliRunner().invoke(app, ["restore", str(made), "-c", str(empty), *options], catch_exceptions=False)
    site = Site(Settings.load(empty)) if empty.exists() else None
    if where != "stage":
        assert half_restored(empty.parent / "state") is not None
    if site is not None and where != "stage":
        with pytest.raises(RefusedError, match="goes on with it"):
            refuse_half_restored(site)
    found = call("restore", made, *options, config=empty)
    assert found["verified"]["ok"]
    refuse_half_restored(Site(Settings.load(empty)))


def test_a_process_at_work_is_not_restored_under(stand: Stand, made: Path, empty: Path) -> None:
    keys_to(stand, empty)
    call("restore", made, config=empty)
    with exclusive(Site(Settings.load(empty)).run_directory, "serve", patience_s=0.0):
        assert "stop it first" in call("restore", made, "--force", config=empty, code=4)


def test_a_full_disk_is_said_and_leaves_nothing(stand: Stand, tmp_path: Path, made: Path, empty: Path) -> None:
    def limited(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = ["prlimit", "--fsize=3000", sys.executable, "-B", "-m", "ops.cli", *map(str, arguments)]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)

    keys_to(stand, empty)
    done = limited("restore", made, "-c", empty)
    assert done.returncode == 3, done.stderr
    assert "File too large" in done.stderr
    assert nothing_written(empty)
    call("restore", made, config=empty)
    done = limited("backup", tmp_path / "full" / "b", "-c", empty)
    assert done.returncode == 2
    assert "no such folder" in done.stderr
    (tmp_path / "full").mkdir()
    done = limited("backup", tmp_path / "full" / "b", "-c", empty)
    assert done.returncode == 3, done.stderr
    assert list((tmp_path / "full").iterdir()) == []


def test_a_file_that_is_there_stays_unless_it_is_forced(
    stand: Stand, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = made.read_bytes()
    assert "--force" in take(stand, made, monkeypatch, code=4)
    assert made.read_bytes() == before
    take(stand, made, monkeypatch, "--force")
    assert made.read_bytes() != before


def test_through_pipes_and_to_addresses(stand: Stand, empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys_to(stand, empty)
    with old(monkeypatch):
        done = CliRunner().invoke(app, ["backup", "-", "-c", str(stand.path)])
        assert done.exit_code == 0, done.output
        call("backup", "memory://bucket/one", config=stand.path)
        call("backup", "memory://bucket/one", config=stand.path, code=4)
        assert "no-such" in call("backup", "no-such://bucket/one", config=stand.path, code=2)
    back = CliRunner().invoke(app, ["restore", "-", "-c", str(empty)], input=done.stdout_bytes)
    assert back.exit_code == 0, back.output
    assert fsspec.filesystem("memory").exists("/bucket/one")
    assert call("restore", "memory://bucket/one", "--force", config=empty)["verified"]["ok"]
    assert "no backup" in call("restore", "memory://bucket/two", config=empty, code=2)


def test_a_damaged_version_is_left_out_and_named(stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = stand.site.registry.versions(LANE).list()
    folder = Settings.load(stand.path).state_dir / "registry" / LANE.tenant / LANE.use_case / "versions" / versions[0]
    (folder / "manifest.json").chmod(0o600)
    (folder / "manifest.json").write_bytes(b"{}")
    found = take(stand, tmp_path / "b", monkeypatch, code=1)
    assert found["lanes"][0]["versions"] == versions[1:]
    assert versions[0] in found["problems"][0]


def test_settings_that_lack_a_lane_are_refused(stand: Stand, made: Path, empty: Path) -> None:
    keys_to(stand, empty)
    shutil.copytree(stand.path.parent / "prompts", empty.parent / "prompts")
    empty.write_text(stand.path.read_text().replace('use_case = "support"', 'use_case = "other"'))
    assert "acme/support (classify)" in call("restore", made, config=empty, code=4)
