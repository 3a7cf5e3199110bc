"""Real Prometheus and Alertmanager on sped-up rules, the real processes: break a thing, and see who is told."""

import re
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ops.cli.app import app
from store.event import encode, wall_clock_s
from tests.contracts.escalations import escalation
from tests.integration.alerting import (
    Receiver,
    Watch,
    alertmanager,
    duration_ms,
    program,
    prometheus,
    promised_s,
    receiving,
    sped_up,
)
from tests.integration.rig import DEADLINE_S, FACTOR, LONG, RULES, SHIPPED, Rig, rig
from tests.ops.sites import LANE, open_site
from tests.ops.stand import TOPIC

_OF_PROMETHEUS_S = 6.0  # from a death to the next look and evaluation, and to our own next question
_OF_A_PROCESS_S = 25.0  # for a gateway's own retries, its circuit breaker and its gauges, beside that


def test_speeding_up_changes_durations_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "sped_up.rules.yml"
    path.write_text(RULES, "utf-8")
    assert f"{SHIPPED.count('- alert: ')} rules found" in program("promtool", "check", "rules", str(path))
    shipped, quick = (re.split(r"(\d+(?:ms|[smhd]))\b", text) for text in (SHIPPED, RULES))
    assert shipped[::2] == quick[::2], "more than durations has changed"
    changed = [(a, b) for a, b in zip(shipped[1::2], quick[1::2], strict=True) if a != b]
    assert len(changed) == len(re.findall(r"for: \d|\[\d", SHIPPED))
    for before, after in changed:
        assert duration_ms(after) in {round(duration_ms(before) / FACTOR), 4000}
    assert sped_up("for: 1h30m\nx[2m:30s] offset 1d > 900", 30, least_ms=2000) == (
        "for: 180000ms\nx[4000ms:2000ms] offset 2880000ms > 900"
    )
    assert promised_s("- alert: A\nexpr: x[5m] y[1d]\nfor: 2m\n- alert: B\nfor: 9m\n", "A") == 7 * 60
    assert promised_s(SHIPPED, "UnderstudyIngestAbsent") == 2 * 60


@pytest.mark.timeout(900)
def test_a_killed_ingest_is_told_and_alertmanager_passes_it_on(tmp_path: Path) -> None:
    with rig(tmp_path / "rig") as one, watched(tmp_path, one) as (watch, receiver):
        one.start("ingest")
        one.until("ingest is seen", lambda: watch.sees("ingest"))
        one.until("calm", lambda: "UnderstudyIngestAbsent" not in watch.firing())
        one.kill("ingest")
        one.fires(watch, "UnderstudyIngestAbsent", slack_s=_OF_PROMETHEUS_S)
        one.until("a page", lambda: ("/pages", "UnderstudyIngestAbsent", "firing") in receiver.heard)
        one.until("the watchdog", lambda: ("/watchdog", "Watchdog", "firing") in receiver.heard)
        one.start("ingest")
        one.resolves(watch, "UnderstudyIngestAbsent")
        one.until("its end", lambda: ("/pages", "UnderstudyIngestAbsent", "resolved") in receiver.heard)
        assert ("/watchdog", "Watchdog", "resolved") not in receiver.heard


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_each_thing_that_breaks_is_told_in_time_and_what_is_mended_ends(tmp_path: Path) -> None:
    settings = {"calls_per_day": "1000000", "max_bytes": str(1 << 20), "concurrency": "2"}
    with rig(tmp_path / "rig", **settings) as one, watched(tmp_path, one) as (watch, _):
        one.start("ingest", "train", "serve")
        one.until("all are seen", lambda: all(map(watch.sees, one.ports)), meanwhile=one.ask)
        one.until("calm", lambda: watch.firing() == {"Watchdog"}, meanwhile=one.ask)
        processes_die(one, watch)
        the_teacher_breaks(one, watch)
        producers_send_rubbish(one, watch)
        redis_goes_away(one, watch)
        the_log_takes_nothing(one, watch)
        the_registry_cannot_be_trusted(one, watch)
        one.until("calm again", lambda: watch.firing() == {"Watchdog"}, meanwhile=one.ask)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_too_much_work_and_a_spent_budget_are_told_in_time_and_end(tmp_path: Path) -> None:
    settings = {"calls_per_day": "1000000", "concurrency": "2"}
    with rig(tmp_path / "rig", **settings) as one, watched(tmp_path, one) as (watch, _):
        one.start("serve")
        one.until("it is seen", lambda: watch.sees("serve"), meanwhile=one.ask)
        the_budget_is_gone(one, watch)
        too_much_is_asked(one, watch)


def processes_die(one: Rig, watch: Watch) -> None:
    for name, alert in (
        ("ingest", "UnderstudyIngestAbsent"),
        ("train", "UnderstudyTrainAbsent"),
        ("serve", "UnderstudyServeAbsent"),
    ):
        one.kill(name)
        one.fires(watch, alert, slack_s=_OF_PROMETHEUS_S, meanwhile=one.ask)
        one.start(name)
        one.resolves(watch, alert, meanwhile=one.ask)


def the_teacher_breaks(one: Rig, watch: Watch) -> None:
    one.teacher.mood = "fails"
    one.fires(watch, "UnderstudyTeacherFailing", slack_s=_OF_A_PROCESS_S, meanwhile=one.ask)
    one.teacher.mood = "well"
    one.resolves(watch, "UnderstudyTeacherFailing", meanwhile=one.ask)
    one.teacher.mood = "babbles"
    one.fires(watch, "UnderstudyAnswersInvalid", slack_s=_OF_A_PROCESS_S, meanwhile=one.ask)
    one.teacher.mood = "well"
    one.resolves(watch, "UnderstudyAnswersInvalid", meanwhile=one.ask)
    one.teacher.mood = "refuses"
    one.fires(watch, "UnderstudyTeacherRefused", slack_s=_OF_A_PROCESS_S, meanwhile=one.ask)
    one.teacher.mood = "well"
    one.resolves(watch, "UnderstudyTeacherRefused", "UnderstudyTeacherFailing", meanwhile=one.ask)


def producers_send_rubbish(one: Rig, watch: Watch) -> None:
    one.publish(*(b"rubbish %d" % number for number in range(6)))
    one.fires(watch, "UnderstudyDeadLetters", slack_s=_OF_A_PROCESS_S)
    dropped = CliRunner().invoke(app, ["dlq", "drop", "--all", "-r", "a test", "-c", str(one.settings)])
    assert dropped.exit_code == 0, dropped.output
    one.resolves(watch, "UnderstudyDeadLetters")
    labels = open_site(one.settings).lane(None).labels
    numbers = iter(range(10_000))

    def another_prompt() -> None:
        event = escalation("another prompt", number=next(numbers), label=labels[0], time_s=wall_clock_s())
        one.publish(encode(event))

    one.fires(watch, "UnderstudyOtherPrompt", slack_s=_OF_A_PROCESS_S, meanwhile=another_prompt)
    one.resolves(watch, "UnderstudyOtherPrompt")


def redis_goes_away(one: Rig, watch: Watch) -> None:
    one.stop_redis()
    one.fires(watch, "UnderstudyDegraded", slack_s=_OF_A_PROCESS_S, meanwhile=one.ask)
    one.fires(watch, "UnderstudyIngestBlocked", slack_s=_OF_A_PROCESS_S)
    one.fires(watch, "UnderstudyTrainerStuck", slack_s=_OF_A_PROCESS_S)
    one.start_redis()
    one.resolves(watch, "UnderstudyDegraded", "UnderstudyIngestBlocked", "UnderstudyTrainerStuck", meanwhile=one.ask)


def the_log_takes_nothing(one: Rig, watch: Watch) -> None:
    """The topic is no topic any more, while all else in Redis works: the spool fills, and then events are lost."""
    name = f"log:{{{TOPIC}}}"
    with open_site(one.settings).redis_client() as client:
        client.rename(name, "aside")
        client.set(name, "no topic")
        one.fires(watch, "UnderstudySpoolFilling", slack_s=DEADLINE_S, meanwhile=lambda: one.fill(0.6))
        one.fires(watch, "UnderstudySpoolFull", slack_s=DEADLINE_S, meanwhile=lambda: one.fill(0.995))
        one.fires(watch, "UnderstudyEventsDropped", slack_s=_OF_A_PROCESS_S, meanwhile=lambda: one.ask(LONG))
        client.delete(name)
        client.rename("aside", name)
    one.resolves(
        watch, "UnderstudySpoolFull", "UnderstudySpoolFilling", "UnderstudyEventsDropped", "UnderstudyIngestBlocked"
    )


def the_registry_cannot_be_trusted(one: Rig, watch: Watch) -> None:
    forged = open_site(one.settings).registry.moves(LANE)._path(1)
    forged.parent.mkdir(parents=True, exist_ok=True)
    forged.write_bytes(b"{}")
    one.fires(watch, "UnderstudySwapFailed", slack_s=_OF_A_PROCESS_S)
    one.fires(watch, "UnderstudyTrainerStuck", slack_s=_OF_A_PROCESS_S)
    forged.unlink()
    one.resolves(watch, "UnderstudySwapFailed", "UnderstudyTrainerStuck")


def too_much_is_asked(one: Rig, watch: Watch) -> None:
    one.teacher.mood = "slow"
    enough = threading.Event()

    def ask_on() -> None:
        while not enough.is_set():
            one.ask()

    with ThreadPoolExecutor(60) as crowd:
        for _ in range(60):
            crowd.submit(ask_on)
        try:
            one.until("some are refused", lambda: one.metric("understudy_requests_shed_total", "serve") > 0)
            one.fires(watch, "UnderstudyOverloaded", slack_s=_OF_A_PROCESS_S)
        finally:
            enough.set()
    one.teacher.mood = "well"
    one.resolves(watch, "UnderstudyOverloaded", meanwhile=one.ask)


def the_budget_is_gone(one: Rig, watch: Watch) -> None:
    one.until("calls", lambda: one.metric("understudy_teacher_calls_total", "serve") > 200, meanwhile=one.ask)
    used = one.metric("understudy_budget_used_calls", "serve")
    one.change("calls_per_day = 1000000", f"calls_per_day = {int(used)}")
    one.kill("serve", signal.SIGHUP)
    one.fires(watch, "UnderstudyBudgetExhausted", slack_s=_OF_A_PROCESS_S, meanwhile=one.ask)
    one.fires(watch, "UnderstudyPromiseSuspended", slack_s=_OF_A_PROCESS_S, meanwhile=one.ask)
    one.change(f"calls_per_day = {int(used)}", "calls_per_day = 1000000")
    one.kill("serve", signal.SIGHUP)
    one.resolves(watch, "UnderstudyBudgetExhausted", "UnderstudyPromiseSuspended", meanwhile=one.ask)


@contextmanager
def watched(folder: Path, one: Rig) -> Iterator[tuple[Watch, Receiver]]:
    """Prometheus and Alertmanager beside a rig."""
    with (
        receiving() as receiver,
        alertmanager(folder / "alertmanager", receiver.port) as port,
        prometheus(folder / "prometheus", RULES, one.ports, tell=port) as watch,
    ):
        yield watch, receiver
