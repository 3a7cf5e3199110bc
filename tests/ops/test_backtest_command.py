"""`understudy backtest` from its options to its files and exit codes, with a replay that costs nothing."""

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner, Result

from ops.backtest.command import curve_budgets, physical_cores
from ops.backtest.records import Ask
from ops.backtest.runs.work import Done, Failure, ReplaySource, work_on
from ops.backtest.tasks.logs import LOGS
from ops.cli.app import app
from store.student.folder import ENCODER_FILES
from tests.ops.children import REPOSITORY, gone, lines, until
from tests.ops.fake_replay import FakeReplay, noted, one_raises, unreadable, write_log
from tests.ops.sites import LANE, make_site
from tests.tiny import tiny_encoder


def entry(replay: Callable[..., FakeReplay]) -> str:
    return f"{replay.__module__}:{replay.__name__}"


def call(log: Path, out: Path, *more: str | Path, replay: Callable[..., FakeReplay] = FakeReplay) -> Result:
    arguments = ["backtest", log, "--out", out, "--replay", entry(replay), "--jobs", "2", *more]
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


class WorkerHere:
    """A worker that is no process of its own; what the pool does with processes, its own tests tell."""

    pid = os.getpid()

    def __init__(self, entry: str) -> None:
        assert entry == "ops.backtest.runs.work:work_on"

    def warm(self) -> None:
        pass

    def run(self, work: ReplaySource | Ask, *, told: Callable[..., None], **_: Any) -> Done | Failure | None:
        return work_on(work, told)

    def close(self) -> None:
        pass


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ops.backtest.runs.pool.Worker", WorkerHere)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return write_log(tmp_path / "log.jsonl")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "found" / "here"


def test_the_command_has_a_help_with_an_example_and_the_exit_codes() -> None:
    shown = " ".join(CliRunner().invoke(app, ["backtest", "--help"]).output.split())
    assert "Example: understudy backtest" in shown
    assert "Exit codes: 0 done" in shown
    assert "--replay" not in shown


def test_a_backtest_prints_tables_and_writes_a_figure_a_page_and_its_json(log: Path, out: Path) -> None:
    result = call(log, out, "--budget", "100,450", "--seeds", "2", "--usd-per-call", "0.001")
    assert result.exit_code == 0, result.output
    first = result.stdout.splitlines()[0]
    assert first.startswith("Asking the teacher 450 of 1,000 questions would save $0.55 of $1.00 over the log")
    assert "! Nothing is told for a day: the log's times could not be read" in result.stdout
    assert re.search(r"^450 \* +450 +45% +\$0\.45 +\d\d\.\d% \[\d\d\.\d, \d\d\.\d\] +-\d", result.stdout, re.MULTILINE)
    assert re.search(r"^100 +100 +10%", result.stdout, re.MULTILINE)
    assert "Recommended: 450 calls over the log" in result.stdout
    assert {path.name for path in out.iterdir()} == {"curve.png", "report.html", "backtest.json"}
    assert "replaying: " in result.stderr
    assert "replaying: " not in result.stdout


@pytest.mark.usefixtures("here")
def test_json_is_one_value_and_all_else_goes_to_standard_error(log: Path, out: Path) -> None:
    result = call(log, out, "--budget", "100", "--seeds", "1", "-o", "json")
    found = json.loads(result.stdout)
    assert found == json.loads((out / "backtest.json").read_text())
    assert found["complete"] is True
    assert [(run["ask"]["budget"], run["ask"]["seed"]) for run in found["runs"]] == [(100, 0)]
    assert found["hard_topics"]


@pytest.mark.usefixtures("here")
def test_without_a_budget_the_whole_curve_is_run(log: Path, out: Path) -> None:
    result = call(log, out, "--seeds", "1", "-o", "json")
    assert [point["budget"] for point in json.loads(result.stdout)["points"]] == [50, 100, 200, 300, 450, 650, 850]


def test_budgets_of_the_curve_are_round_and_rise() -> None:
    curve = LOGS["classify"].curve
    assert curve_budgets(3833, curve) == [190, 380, 770, 1100, 1700, 2500, 3300]
    assert curve_budgets(50_000, curve) == [2500, 5000, 10_000, 15_000, 22_000, 32_000, 42_000]
    assert curve_budgets(3, curve) == [1, 2, 3]


@pytest.mark.usefixtures("here")
def test_what_is_asked_of_each_run_is_what_the_options_say(log: Path, out: Path) -> None:
    more = ["--target", "0.9", "--confidence", "0.8", "--shuffle", "--no-fine-tune", "--budget", "100", "--seeds", "1"]
    asked = json.loads(call(log, out, *more, "-o", "json").stdout)["runs"][0]["ask"]
    assert asked == {
        "budget": 100, "seed": 0, "shuffled": True, "target": 0.9, "confidence": 0.8, "metric": "accuracy",
        "audit_ratio": 0.05, "audit_reserve_ratio": 0.1, "fine_tune": False, "horizon_ratio": 1.0,
    }  # fmt: skip


@pytest.mark.usefixtures("here")
def test_answers_are_a_line_a_row_with_who_gave_them(log: Path, out: Path, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    assert call(log, out, "--budget", "100", "--seeds", "2", "--answers", path).exit_code == 0
    told = [json.loads(line) for line in path.read_text().splitlines()]
    assert [one["id"] for one in told] == [f"q{row}" for row in range(1000)]
    assert told[0] | {"answer": ""} == {
        "id": "q0", "answer": "", "by": "teacher", "reason": "low_confidence", "propensity": 1.0, "confidence": None,
        "version": None,
    }  # fmt: skip
    assert {one["by"] for one in told[30:]} == {"teacher", "student"}
    assert all(one["version"] == "v1" and 0 <= one["confidence"] <= 1 for one in told[30:])


@pytest.mark.usefixtures("here")
def test_the_recommended_setting_is_written_as_toml(log: Path, out: Path) -> None:
    assert call(log, out, "--budget", "100,450", "--seeds", "1", "--days", "1", "--write-settings").exit_code == 0
    found = tomllib.loads((out / "settings.toml").read_text())
    assert found["lanes"][0]["budget"] == {"calls_per_day": 450, "audit_reserve_ratio": 0.0}
    assert found["trainer"] == {"encoder": "minilm", "fine_tune": True}


@pytest.mark.usefixtures("here")
def test_a_lane_of_a_settings_file_gives_prices_and_target(log: Path, out: Path, tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    text = site.read_text()
    site.write_text(
        re.sub(r"(\[lanes\.teacher\]\n)", r"\1input_usd_per_mtok = 1000.0\noutput_usd_per_mtok = 0.0\n", text)
    )
    result = call(log, out, "--budget", "100", "--seeds", "1", "-o", "json", "--settings", site, "--lane", str(LANE))
    found = json.loads(result.stdout)
    assert found["target"] is not None
    prompt = len((tmp_path / "site" / "prompts" / "classify.txt").read_text())
    assert prompt / 4 * 1e-3 < found["prices"]["usd_per_call"] < (prompt + 200) / 4 * 1e-3
    said = json.loads(call(log, out, "--budget", "100", "--seeds", "1", "-o", "json", "--settings", site,
                           "--usd-per-call", "0.5", "--target", "0.7").stdout)  # fmt: skip
    assert (said["prices"]["usd_per_call"], said["target"]) == (0.5, 0.7)


@pytest.mark.usefixtures("here")
def test_a_settings_file_says_how_the_replay_learns_and_what_it_audits(log: Path, out: Path, tmp_path: Path) -> None:
    site = make_site(tmp_path / "site", max_tokens="64", audit_ratio="0.07", audit_reserve_ratio="0.2")
    asked = ("--budget", "100", "--seeds", "1", "-o", "json", "--settings", site)
    ask = json.loads(call(log, out, *asked, replay=noted).stdout)["runs"][0]["ask"]
    assert (ask["audit_ratio"], ask["audit_reserve_ratio"]) == (0.07, 0.2)
    assert "max_tokens 64 quarantine_s 3600.0 every_s 86400.0" in (out / "notes").read_text()


@pytest.mark.usefixtures("here")
def test_a_settings_file_that_lies_about_is_not_read(
    log: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "understudy.toml").write_text("not = a settings file")
    monkeypatch.chdir(tmp_path)
    assert call(log, out, "--budget", "100", "--seeds", "1").exit_code == 0


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--budget", "many"], "--budget"),
        (["--budget", "5000"], "--budget 5000"),
        (["--budget", "0"], "--budget 0"),
        (["--encoder", "/nowhere"], "--encoder"),
        (["--lane", "acme/support"], "--lane"),
        (["--published", "/nowhere"], "--published"),
        (["--target", "0.9", "--metric", "balanced_accuracy"], "--metric"),
        (["--text", "nothing"], "--text"),
        (["--seeds", "0"], "--seeds"),
        (["--usd-per-call", "inf"], "--usd-per-call inf"),
        (["--usd-per-call", "nan"], "--usd-per-call"),
        (["--usd-per-training-hour", "inf"], "--usd-per-training-hour inf"),
        (["--usd-per-training-hour", "nan"], "--usd-per-training-hour"),
        (["--days", "inf"], "--days inf"),
        (["--days", "nan"], "--days"),
        (["--days", "1e12"], "--days 1e+12: give a number above 0, and at most 3,660"),
        (["--answers", "/nowhere/answers.jsonl"], "--answers /nowhere/answers.jsonl: its folder is not there"),
        (["--answers", "/"], "--answers /: that is a folder"),
        (["--answers", f"/{'n' * 300}"], "--answers"),
    ],
)
def test_a_wrong_option_ends_with_2_and_is_named(more: list[str], named: str, log: Path, out: Path) -> None:
    result = call(log, out, *more)
    assert result.exit_code == 2
    assert named in result.stderr
    assert not out.exists()


def test_a_place_that_cannot_be_written_is_refused_before_any_run(log: Path, out: Path, tmp_path: Path) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("kept")
    folder.mkdir()
    before = log.read_bytes()
    cases: list[tuple[Path, list[str | Path], str]] = [
        (file, [], f"--out {file}: File exists: name a folder"),
        (file / "under", [], f"--out {file / 'under'}: Not a directory: name a folder"),
        (out, ["--answers", file / "under"], f"--answers {file / 'under'}: its folder is not there"),
        (out, ["--answers", folder], f"--answers {folder}: that is a folder"),
        (out, ["--answers", out], f"--answers {out}: that is a folder"),
        (out, ["--answers", log], f"--answers {log}: that is the log itself"),
    ]
    for place, more, told in cases:
        result = call(log, place, "--budget", "50", "--seeds", "1", *more)
        assert (result.exit_code, type(result.exception)) == (2, SystemExit)
        assert told in result.stderr.replace("\n", "")
        assert "replaying: " not in result.stderr
    assert (file.read_text(), log.read_bytes(), out.exists()) == ("kept", before, False)


def test_what_may_not_be_written_is_refused_before_any_run(
    log: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = tmp_path / "answers.jsonl"
    answers.write_text("kept")
    monkeypatch.setattr("os.access", lambda path, mode: not mode & os.W_OK or Path(path) not in {answers, tmp_path})
    for name in (answers, tmp_path / "new.jsonl"):
        result = call(log, out, "--budget", "50", "--seeds", "1", "--answers", name)
        assert result.exit_code == 2
        assert f"--answers {name}: it cannot be written" in result.stderr
    result = call(log, tmp_path, "--budget", "50", "--seeds", "1")
    assert result.exit_code == 2
    assert f"--out {tmp_path}: it cannot be written" in result.stderr
    assert (answers.read_text(), out.exists()) == ("kept", False)


@pytest.mark.usefixtures("here")
def test_a_check_of_the_answers_file_leaves_it_as_it_was(log: Path, out: Path, tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    answers.write_text("kept")
    result = call(log, out, "--budget", "50", "--seeds", "1", "--answers", answers, replay=unreadable)
    assert (result.exit_code, answers.read_text()) == (3, "kept")


@pytest.mark.usefixtures("here")
def test_answers_may_lie_in_the_folder_that_is_made(log: Path, out: Path) -> None:
    assert call(log, out, "--budget", "50", "--seeds", "1", "--answers", out / "answers.jsonl").exit_code == 0
    assert len((out / "answers.jsonl").read_text().splitlines()) == 1000


@pytest.mark.usefixtures("here")
def test_an_encoder_that_lacks_a_file_is_refused_by_its_flag(log: Path, out: Path, tmp_path: Path) -> None:
    encoder = tmp_path / "encoder"
    for lacking in ENCODER_FILES:
        (tiny_encoder(encoder) / lacking).unlink()
        result = call(log, out, "--encoder", encoder)
        assert result.exit_code == 2
        assert f"--encoder {encoder}: it lacks {lacking}: " in result.stderr
    assert not out.exists()
    tiny_encoder(encoder)
    whole = call(log, out, "--budget", "50", "--seeds", "1", "--encoder", encoder, replay=unreadable)
    assert whole.exit_code == 3  # the replay was reached


@pytest.mark.usefixtures("here")
def test_times_that_cannot_be_read_are_told_on_standard_error(log: Path, out: Path) -> None:
    with log.open("a") as file:
        file.write('{"text": "t", "label": "refund", "time": "2026-01-01T00:00:00"}\n')
    result = call(log, out, "--budget", "50", "--seeds", "1", "-o", "json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["timed"] is False
    assert "line 1001: what is under time is no time that can be read" in result.stderr
    assert "line 1001: " not in result.stdout


@pytest.mark.usefixtures("here")
def test_a_run_that_failed_ends_with_3_and_the_others_are_told(log: Path, out: Path) -> None:
    result = call(log, out, "--budget", "50,100", "--seeds", "2", "-o", "json", replay=one_raises)
    assert result.exit_code == 3
    assert "budget 100, seed 1: " in result.stderr
    assert "missing (budget/seed), 1 of them: 100/1" in result.stderr
    found = json.loads(result.stdout)
    assert found["complete"] is False
    assert len(found["runs"]) == 3
    assert "ended before every run had" in (out / "report.html").read_text("utf-8")


@pytest.mark.usefixtures("here")
def test_where_nothing_could_be_run_nothing_is_written(log: Path, out: Path) -> None:
    result = call(log, out, "--budget", "50", "--seeds", "1", replay=unreadable)
    assert result.exit_code == 3
    assert "nothing could be run: the encoder's folder holds no encoder" in result.stderr
    assert list(out.iterdir()) == []


@pytest.mark.usefixtures("here")
def test_bad_rows_are_named_by_line(log: Path, out: Path) -> None:
    with log.open("a") as file:
        file.write("no json\n")
    result = call(log, out, "--budget", "50", "--seeds", "1")
    assert result.exit_code == 0
    assert "line 1001: " in result.stderr


def test_ctrl_c_reports_what_was_finished_and_ends_with_130(log: Path, out: Path) -> None:
    command = [sys.executable, "-m", "ops.cli", "backtest", str(log), "--out", str(out), "--budget", "50", "-o", "json"]
    process = subprocess.Popen(
        [*command, "--seeds", "40", "--jobs", "2", "--replay", entry(noted)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    until(lambda: sum(line.startswith("begins") for line in lines(out / "notes")) >= 4, seconds=90)
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    found = json.loads(output)
    assert found["complete"] is False
    assert f"missing (budget/seed), {40 - len(found['runs'])} of them" in errors.decode()
    assert "Traceback" not in errors.decode()
    assert (out / "curve.png").exists()
    until(lambda: all(gone(child.pid) for child in family), seconds=5)


def test_the_command_line_loads_no_torch_itself(log: Path, out: Path) -> None:
    program = (
        "import sys; from typer.testing import CliRunner; from ops.cli.app import app\n"
        "if __name__ == '__main__':\n"
        "    result = CliRunner().invoke(app, sys.argv[1:])\n"
        "    print(result.exit_code, [name for name in ('torch', 'transformers', 'faiss') if name in sys.modules])\n"
    )
    options = ["--budget", "50", "--seeds", "1", "--out", str(out), "--replay", entry(FakeReplay)]
    found = subprocess.run(
        [sys.executable, "-c", program, "backtest", str(log), *options],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=True,
    )
    assert found.stdout.strip() == "0 []", found.stderr


def test_there_is_a_core_to_work_on() -> None:
    assert 1 <= physical_cores() <= (os.cpu_count() or 1)
