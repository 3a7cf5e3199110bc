"""Every table of the command line, with the longest names that there are: it fits 80 columns, and words stay whole."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import redis
from typer.testing import CliRunner

from ops.backtest.command import Result as Backtested
from ops.backtest.runs.pool import PoolResult
from ops.cli import backtest as backtest_cli
from ops.cli import data, letters, repair
from ops.cli.app import app
from ops.cli.lane.shown import show_processes
from ops.reports import (
    DeadLetterReport,
    Differing,
    LetterKind,
    LetterSettled,
    LetterShown,
    LettersSettled,
    Rebuilt,
    Skipped,
    VerifyReport,
)
from ops.status.report import ProcessStatus, StatusReport
from store.control import Control, CycleEnded, Heartbeat
from store.event import Lane, wall_clock_s
from store.registry.manifest import Topic, Verdict
from tests.ops.backtests import backtest
from tests.ops.sites import make_site, open_site, publish

WIDTH: Final = 80
ROOT: Final = Path(__file__).parents[2]
LONG: Final = Lane("tenant-" + "t" * 33, "use-case-" + "u" * 31)
LABELS: Final = [f"label_number_{n:02}_of_twenty" for n in range(20)]
SENTENCE: Final = "because the agreement of the newest audits lay below what was promised, as ada has seen by hand"
ITEM: Final = "i" * 64
VERDICT: Final = Verdict(
    outcome="inconclusive",
    phase="growth",
    refusals=[SENTENCE, SENTENCE],
    rows_judged=12_345,
    student_agreement=0.9512,
    difference=0.0123,
    lower=-0.0123,
    upper=0.1,
    delta=0.02,
    rows_needed=0,
    slices=[],
)
TOPICS: Final = [Topic(name="parcel / delivery / late / where", items=1_234, requests=9_876.0, escalated_ratio=0.123)]
LETTER: Final = LetterShown(
    id="3fa1" * 4,
    tenant=LONG.tenant,
    state="replayed",
    use_case=LONG.use_case,
    reason="undecodable",
    detail=SENTENCE,
    topic=f"understudy.{LONG.use_case}.escalations",
    partition=11,
    offset=123_456_789,
    time="2026-01-02T03:04:05Z",
    size_bytes=1_048_576,
)
LISTED: Final = DeadLetterReport(
    total=1,
    by_reason={},
    kinds=[
        LetterKind(
            use_case=LONG.use_case,
            tenant=LONG.tenant,
            reason="unredactable",
            total=1_234_567,
            open=1_234_567,
            newest="2026-01-02T03:04:05Z",
            example=LETTER.id,
        )
    ],
    letters=[LETTER],
)
SETTLED: Final = LettersSettled(
    use_case=LONG.use_case,
    letters=[
        LetterSettled(
            id=f"{number:012}",
            reason="unredactable",
            topic=LETTER.topic,
            partition=11,
            offset=number,
            done=number < 40,
            why_not=None if number < 40 else SENTENCE,
        )
        for number in range(100)
    ],
    gone=0,
    dry_run=False,
)
VERIFIED: Final = VerifyReport(
    ok=False,
    from_offset=0,
    complete=True,
    offsets={},
    records=1_234_567,
    expected=100_000,
    found=99_999,
    missing=[f"{LONG}/{ITEM}"],
    extra=[],
    differing=[Differing(what=f"{LONG}/{ITEM}", fields=["tally", "count", "last_asked_s", "propensity", "labels"])],
    wrong=2,
    damaged=[],
    skipped=[],
    in_motion=0,
    chain_ok=False,
    signatures_ok=False,
    versions_ok=False,
    versions=9,
    moves=99,
    problems=[],
)
SKIPPED: Final = Skipped(
    topic=LETTER.topic,
    partition=11,
    position="123456789012",
    begin=123_456_789_013,
    end=223_456_789_013,
    to="123456789013",
    never_read=1_234_567,
    read_again=1_234_567,
    why_stopped="",
    done=False,
)
REBUILT: Final = Rebuilt(
    lane=str(LONG),
    complete=False,
    records=123_456_789,
    damaged=[],
    mended=1_234_567,
    lost=[],
    items_before=1_234_567,
    items_after=1_234_567,
    done=False,
)
SCENES: Final[dict[str, list[str]]] = {
    "init": ["init", "FOLDER/a_folder_with_quite_a_long_name/and_another_below_it"],
    "status": ["status", "-c", "SETTINGS"],
    "history": ["history", "-c", "SETTINGS"],
    "show": ["show", "VERSION", "-c", "SETTINGS"],
    "promote": ["promote", "VERSION", "--force", "-r", SENTENCE, "-c", "SETTINGS"],
    "rollback": ["rollback", "-r", SENTENCE, "-c", "SETTINGS"],
    "keys list": ["keys", "list", "-c", "SETTINGS"],
    "import": ["import", "LOG", "--dry-run", "-c", "SETTINGS"],
    "producers": ["producers", "-c", "SETTINGS"],
    "lag": ["lag", "-c", "SETTINGS"],
    "labels list": ["labels", "list", "-c", "SETTINGS"],
    "prompt list": ["prompt", "list", "-c", "SETTINGS"],
}
SHOWN: Final[dict[str, Callable[[Path], object]]] = {
    "dlq list": lambda _: letters._show_list(LISTED),
    "dlq replay": lambda _: letters._show_settled([SETTLED], "replayed"),
    "verify": lambda _: data.show_verified(VERIFIED),
    "ingest skip": lambda _: repair._show_skipped([SKIPPED]),
    "buffer rebuild": lambda _: repair._show_rebuilt([REBUILT]),
    "processes": lambda _: show_processes(_processes()),
    "backtest": lambda folder: backtest_cli._show(_backtested(folder)),
}


def _processes() -> StatusReport:
    process = ProcessStatus(
        name="ingest", pid=4_194_304, port=65_535, admin_port=65_535, started_s=1.0, ready=False, why=[]
    )
    dead = {LONG.use_case: {"undecodable": 1_234_567, "label_not_in_the_list": 1_234_567}}
    return StatusReport(lanes=[], processes=[process] * 3, dead_letters=dead, unavailable=[], warnings=[])


def _backtested(folder: Path) -> Backtested:
    found = backtest(folder, target=0.8, binds_below=200)
    return Backtested(
        backtest=found, outcome=PoolResult(failed=[], missing=[], interrupted=False), files=[], untimed_why=None
    )


def assert_it_fits(output: str, *, words: str = "") -> None:
    """No line is longer than the terminal is wide, and of the words that fit a line none is cut."""
    assert output.strip()
    assert [line for line in output.splitlines() if len(line) > WIDTH] == []
    for word in words.split():
        assert re.search(rf"(?<!\S){re.escape(word)}(?!\S)", output), f"{word} is cut"


@pytest.fixture
def told(tmp_path: Path, redis_url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A site of long names where everything has happened; what the words of a scene stand for."""
    monkeypatch.setattr("ops.moves.operator.FOLLOW_S", 0.1)
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    names = {"tenant": f'"{LONG.tenant}"', "use_case": f'"{LONG.use_case}"', "labels": str(LABELS).replace("'", '"')}
    settings = make_site(tmp_path / "site", url=f'"{redis_url}"', **names)
    versions = publish(settings, b"one", b"two", lane=LONG, labels=LABELS, verdict=VERDICT, topics=TOPICS, golden=[])
    beat = Heartbeat(
        version=versions[1],
        at_s=wall_clock_s(),
        recent_requests=1,
        recent_escalated=1,
        budget_used_calls=12_345,
        budget_limit_calls=50_000,
        suspended=False,
    )
    control = Control(redis_client)
    for name in ("gateway-of-a-host-with-a-long-name-1234", "another-gateway-of-a-host-with-a-long-name-5678"):
        control.announce(LONG, name, beat)
    ended = CycleEnded(id="1", at_s=1.8e9, kind="fine_tune", seconds=123.4, verdict="error", why=SENTENCE)
    control.cycle_ended(LONG, ended)
    log = tmp_path / ("a_log_with_a_long_name_" * 4 + ".jsonl")
    log.write_text(f'{{"text": "a", "label": "{LABELS[0]}"}}\n', "utf-8")
    assert open_site(settings).lane(None).lane == LONG
    return {"FOLDER": str(tmp_path), "SETTINGS": str(settings), "VERSION": versions[0], "LOG": str(log)}


@pytest.mark.parametrize("scene", SCENES)
def test_what_a_command_prints_fits_80_columns(scene: str, told: dict[str, str]) -> None:
    arguments = [told.get(word, word.replace("FOLDER", told["FOLDER"])) for word in SCENES[scene]]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code in {0, 1}, result.output
    words = {"history": f"{told['VERSION']} {SENTENCE}", "show": f"{told['VERSION']} {SENTENCE}"}
    assert_it_fits(result.stdout, words=words.get(scene, ""))


@pytest.mark.parametrize("scene", SHOWN)
def test_what_is_shown_of_a_long_report_fits_80_columns(
    scene: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    SHOWN[scene](tmp_path)
    output = capsys.readouterr().out
    sentences = {"backtest": r"\A[\s\S]*?of 95 %|Recommended: .*", "ingest skip": r"Of the records .*"}
    tables = re.sub(sentences.get(scene, "$"), "", output)
    words = {"dlq list": SENTENCE, "verify": f"{ITEM} last_asked_s,", "ingest skip": "123456789012 223456789013"}
    assert_it_fits(tables, words=words.get(scene, ""))


def test_letters_that_became_the_same_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    letters._show_settled([SETTLED], "replayed")
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["letters", "reason", "outcome", "why", "not", "which"]
    assert [row.split()[:3] for row in rows] == [["40", "unredactable", "replayed"], ["60", "unredactable", "left"]]
    assert "000000000002 …" in rows[0]
    assert SENTENCE in rows[1]


def test_what_goes_into_a_pipe_is_whole_where_no_width_is_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    letters._show_list(LISTED)
    assert_it_fits(capsys.readouterr().out, words=SENTENCE)


def test_tables_are_made_in_one_place() -> None:
    def imports(path: Path, name: str) -> Any:
        return re.search(rf"^(?:from|import) {name}\b", path.read_text("utf-8"), re.MULTILINE)

    found = [str(path.relative_to(ROOT)) for path in (ROOT / "ops").rglob("*.py") if imports(path, "rich.table")]
    assert found == ["ops/demo/page/live_view.py"]
