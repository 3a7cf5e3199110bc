"""What lies in the state directory: whether its disk takes writes, and who may read it."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from typer.testing import CliRunner

from ops.cli.app import app
from ops.init import init
from ops.processes.process import exclusive
from ops.state.disk import refusal
from ops.state.private_files import tighten
from ops.state.run_files import RunFile, read_run_file, run_directory, write_run_file
from store.event import wall_clock_s
from tests.ops.children import REPOSITORY
from tests.ops.sites import make_site, open_site, publish


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def open_to_others(folder: Path) -> list[str]:
    found = [folder, *folder.rglob("*")]
    return [str(path.relative_to(folder)) for path in found if path.lstat().st_mode & 0o077 and not path.is_symlink()]


def test_what_is_there_already_is_taken_from_others_and_nothing_else_is_touched(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("not ours")
    elsewhere.chmod(0o644)
    state = tmp_path / "state"
    with umask(0):
        (state / "redis" / "appendonlydir").mkdir(parents=True)
        (state / "redis" / "appendonlydir" / "a.aof").write_text("texts")
        (state / "spool").mkdir()
        (state / "spool" / "1.spool").write_text("texts")
        (state / "registry").mkdir()
        (state / "registry" / "blob").touch(0o444)
        (state / "notes").mkdir()  # of somebody who keeps his own things there
    (state / "redis" / "link").symlink_to(elsewhere)
    (state / "run").symlink_to(tmp_path)
    tighten(state)
    assert open_to_others(state) == ["notes"]
    assert (state / "registry" / "blob").stat().st_mode & 0o777 == 0o400
    assert elsewhere.stat().st_mode & 0o777 == 0o644


def test_a_shared_folder_is_not_taken_from_others(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    tighten(tmp_path)
    assert tmp_path.stat().st_mode & 0o7777 == 0o1777
    tighten(tmp_path / "missing")


def test_run_files_and_locks_are_for_their_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    with umask(0), exclusive(run_directory(tmp_path / "state"), "serve", patience_s=0.0):
        record = RunFile(name="serve", pid=os.getpid(), started_s=wall_clock_s())
        write_run_file(run_directory(tmp_path / "state"), record)
        assert open_to_others(tmp_path / "state" / "run") == []


def test_init_keeps_secrets_and_shows_the_prompt_whatever_the_umask(tmp_path: Path) -> None:
    with umask(0):
        init(tmp_path / "site")
    shown = open_to_others(tmp_path / "site")
    assert not [name for name in shown if "understudy.toml" in name or "secret" in name or name == "keys/trainer"]
    assert (tmp_path / "site" / "keys").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "site" / "prompts" / "classify.txt").stat().st_mode & 0o777 == 0o644


def test_a_command_that_writes_state_writes_it_for_its_owner_alone(tmp_path: Path) -> None:
    file = make_site(tmp_path / "site")
    with umask(0o077):
        one, two = publish(file, b"one", b"two")
    with umask(0):
        ran = CliRunner().invoke(app, ["pause", "--reason", "a test", "-c", str(file)])
        assert ran.exit_code == 0, ran.output
        assert os.umask(0) == 0o077
    assert len(open_site(file).registry.moves(open_site(file).lane(None).lane).read()) == 3
    assert open_to_others(open_site(file).settings.state_dir) == []
    assert one != two


def test_a_disk_that_takes_a_write_is_not_refused_and_nothing_is_left_on_it(tmp_path: Path) -> None:
    assert refusal(tmp_path / "new") is None
    assert list((tmp_path / "new").iterdir()) == []


LIMITED = """
import resource, sys, os
from pathlib import Path
from ops.processes.process import RunFile, write_run_file
from ops.state.disk import refusal
from store.registry.files.durable import append_line
folder = Path(sys.argv[1])
append_line(folder / "lines.jsonl", b"first")
write_run_file(folder, RunFile(name="serve", pid=1, started_s=1.0))
resource.setrlimit(resource.RLIMIT_FSIZE, (9, resource.RLIM_INFINITY))
for write in (
    lambda: append_line(folder / "lines.jsonl", b"second"),
    lambda: write_run_file(folder, RunFile(name="serve", pid=2, started_s=2.0)),
):
    try:
        write()
    except OSError as error:
        print("refused", flush=True)
print(refusal(folder))
"""


def test_a_disk_without_room_is_refused_by_name_and_leaves_no_half_record(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    lines = ran.stdout.splitlines()
    assert lines[:2] == ["refused", "refused"]
    assert f"the disk of {tmp_path} takes nothing: File too large; free " in lines[2]
    assert (tmp_path / "lines.jsonl").read_bytes() == b"first\n"
    assert (tmp_path / "lines.jsonl").stat().st_mode & 0o777 == 0o600
    assert b'"pid":1' in (tmp_path / "serve.json").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lines.jsonl", "serve.json"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_run_file_that_cannot_be_written_now_is_written_later(tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from ops.processes.process import daemon, run_directory\n"
        "state = Path(sys.argv[1])\n"
        "(run_directory(state) / 'serve.json').mkdir()\n"  # as on a full disk, it cannot be put there
        "(state / 'run' / 'serve.json' / 'full').touch()\n"
        "with daemon('serve', state, lifeline=None, grace_s=5, patience_s=1, now_s=time.time()) as me:\n"
        "    me.announce(port=4)\n"
        "    (state / 'run' / 'serve.json' / 'full').unlink()\n"
        "    (state / 'run' / 'serve.json').rmdir()\n"
        "    deadline = time.monotonic() + 30\n"
        "    while not (state / 'run' / 'serve.json').is_file() and time.monotonic() < deadline: time.sleep(0.05)\n"
        "    print((state / 'run' / 'serve.json').read_text())\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, tmp_path], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert '"port":4' in ran.stdout
    assert read_run_file(tmp_path / "run", "serve") is None
