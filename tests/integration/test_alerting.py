"""Real Prometheus and Alertmanager on sped-up rules, the real processes: break a thing, and see who is told."""

import re
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import msgspec
import pytest
import safetensors.torch
import torch

from ops.answers.reading import Reading
from store.event import LabelAnswer, encode, wall_clock_s
from store.registry.signing import SigningKey
from store.student.encoder import Encoder
from tests.contracts.escalations import escalation
from tests.integration.alerting import (
    FOLDER,
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
from tests.ops.sites import CERTIFIED, LANE, open_site, publish
from tests.ops.stand import TOPIC
from tests.store.test_student import student_on, version_of
from tests.tiny import WORDS, tiny_encoder

UNTOLD = {  # an end that comes while something graver goes on, and the watchdog's, which has none
    "Watchdog",
    *re.findall(
        r"Understudy\w+", " ".join(re.findall(r"target_matchers: .*", (FOLDER / "alertmanager.yml").read_text()))
    ),
}
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
        assert ("/pages", "UnderstudyIngestAbsent", "firing") in receiver.heard
        one.until("the watchdog", lambda: ("/watchdog", "Watchdog", "firing") in receiver.heard)
        one.start("ingest")
        one.resolves(watch, "UnderstudyIngestAbsent")
        one.until("its end", lambda: ("/pages", "UnderstudyIngestAbsent", "resolved") in receiver.heard)
        assert ("/watchdog", "Watchdog", "resolved") not in receiver.heard


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_each_thing_that_breaks_is_told_in_time_and_what_is_mended_ends(tmp_path: Path) -> None:
    settings = {"calls_per_day": "1000000", "max_bytes": str(1 << 20), "concurrency": "2"}
    with rig(tmp_path / "rig", **settings) as one, watched(tmp_path, one) as (watch, receiver):
        one.start("ingest", "train", "serve")
        one.until("all are seen", lambda: all(map(watch.sees, one.ports)), meanwhile=one.ask)
        one.calm(watch, meanwhile=one.ask)
        processes_die(one, watch)
        the_teacher_breaks(one, watch)
        producers_send_rubbish(one, watch)
        redis_goes_away(one, watch)
        the_log_takes_nothing(one, watch)
        the_registry_cannot_be_trusted(one, watch)
        one.calm(watch, meanwhile=one.ask)
        each_end_is_told(
            one, receiver, {"UnderstudyServeAbsent", "UnderstudyAnswersInvalid", "UnderstudyEventsDropped"}
        )


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_what_is_read_kept_and_learned_is_told_in_time_where_it_goes_wrong_and_ends(tmp_path: Path) -> None:
    settings = {"quarantine_s": "0", "every_s": "1", "concurrency": "2"}
    with rig(tmp_path / "rig", **settings) as one, watched(tmp_path, one) as (watch, receiver):
        one.start("ingest", "train")
        one.until("both are seen", lambda: watch.sees("ingest") and watch.sees("train"))
        a_partition_stands_still(one, watch)
        no_cycle_comes(one, watch)
        cycles_fail(one, watch)
        the_prompt_is_edited(one, watch)
        the_buffer_is_damaged(one, watch)
        audits_disagree(one, watch)
        somebody_opens_too_many_connections(one, watch)
        alerts = {"ConsumerStalled", "LagHigh", "CycleOverdue", "AnswersStale", "BufferDamaged", "PromiseBroken"}
        each_end_is_told(one, receiver, {f"Understudy{name}" for name in alerts | {"ConnectionsFull"}})


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_too_much_work_and_a_spent_budget_are_told_in_time_and_end(tmp_path: Path) -> None:
    settings = {"calls_per_day": "1000000", "concurrency": "2"}
    with rig(tmp_path / "rig", **settings) as one, watched(tmp_path, one) as (watch, _):
        one.start("serve")
        one.until("it is seen", lambda: watch.sees("serve"), meanwhile=one.ask)
        the_budget_is_gone(one, watch)
        too_much_is_asked(one, watch)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_student_that_fails_on_what_some_ask_is_told_in_time_and_it_ends(tmp_path: Path) -> None:
    settings = {"calls_per_day": "1000000", "device": '"cpu"', "precision": '"fp32"'}
    with rig(tmp_path / "rig", **settings) as one, watched(tmp_path, one) as (watch, _):
        publish_broken(one, word="tracking")
        one.start("serve")
        one.until("it is seen", lambda: watch.sees("serve"), meanwhile=one.ask)
        one.until("it answers", lambda: one.metric("understudy_forward_seconds_count", "serve"), meanwhile=one.ask)
        one.fires(
            watch, "UnderstudyStudentDown", slack_s=_OF_A_PROCESS_S, meanwhile=lambda: one.ask("where is the tracking")
        )
        one.resolves(watch, "UnderstudyStudentDown", meanwhile=lambda: one.ask("my parcel is late"))


def each_end_is_told(one: Rig, receiver: Receiver, alerts: set[str]) -> None:
    """These were told as firing, and the end of all that were was told, too; else say which were not."""
    assert receiver.begun >= alerts, f"never told: {', '.join(sorted(alerts - receiver.begun))}"
    try:
        one.until("each end is told", lambda: receiver.ended >= receiver.begun - UNTOLD)
    except AssertionError as error:
        error.add_note(f"without an end: {', '.join(sorted(receiver.begun - UNTOLD - receiver.ended))}")
        raise


def publish_broken(one: Rig, *, word: str) -> None:
    """A signed and promoted version whose golden outputs are right, and which says no numbers to texts with a word."""
    base = tiny_encoder(one.folder / "base")
    weights = safetensors.torch.load_file(base / "model.safetensors")
    (name,) = (name for name in weights if name.endswith("word_embeddings.weight"))
    weights[name][WORDS.index(word)] = 3e38 * torch.tensor([1.0, -1.0] * (weights[name].shape[1] // 2))
    safetensors.torch.save_file(weights, base / "model.safetensors", {"format": "pt"})
    encoder = Encoder.load(base, device="cpu", precision="fp32", max_tokens=32)
    labels = open_site(one.settings).lane(None).labels
    student = student_on(encoder, tuned_labels=None, policy=CERTIFIED)
    head = replace(student.head, weight=student.head.weight[: len(labels)], bias=student.head.bias[: len(labels)])
    made = version_of(replace(student, head=head, labels=tuple(labels)), base)
    draft = one.folder / "draft"
    for file, data in made.contents.items():
        (draft / file).parent.mkdir(parents=True, exist_ok=True)
        (draft / file).write_bytes(data)
    site = open_site(one.settings)
    key = SigningKey.load(site.settings.keys.trainer)
    version = site.registry.versions(LANE).publish(draft, msgspec.structs.replace(made.manifest, lane=LANE), key)
    site.registry.moves(LANE).append("promote", version=version, who=key.name, why="a test", key=key, now_s=1.7e9)


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
    one.command("dlq", "drop", "--all", "-r", "a test")
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


def a_partition_stands_still(one: Rig, watch: Watch) -> None:
    """An event of a task to come, which the log took an hour ago, blocks its partition."""
    event = encode(escalation("to come", time_s=wall_clock_s()))
    one.publish(event.replace(b'"task":"classify"', b'"task":"transcribe"'), age_s=3600.0)
    one.fires(watch, "UnderstudyIngestBlocked", slack_s=_OF_A_PROCESS_S)
    one.fires(watch, "UnderstudyConsumerStalled", slack_s=_OF_A_PROCESS_S)
    one.fires(watch, "UnderstudyLagHigh", slack_s=_OF_A_PROCESS_S)
    one.command("ingest", "skip", "--to", "end", "-r", "a test")
    one.resolves(watch, "UnderstudyIngestBlocked", "UnderstudyConsumerStalled", "UnderstudyLagHigh")


def no_cycle_comes(one: Rig, watch: Watch) -> None:
    """A few answers, too few for a cycle, and an interval of a second."""
    one.publish(*(answered(one, f"question {number}", number) for number in range(9)))
    one.fires(watch, "UnderstudyCycleOverdue", slack_s=_OF_A_PROCESS_S)
    one.change("every_s = 1", "every_s = 86400")
    again(one, "train")
    one.resolves(watch, "UnderstudyCycleOverdue")


def cycles_fail(one: Rig, watch: Watch) -> None:
    """Each cycle has less time than it takes, and is asked for at once."""
    one.change("#cycle_timeout_s = 21600.0", "cycle_timeout_s = 0.01")
    again(one, "train")

    def another() -> None:
        errors = one.metric("understudy_cycle_errors_total", "train")
        one.command("cycle", "start", "-r", "a test")
        one.until("it fails", lambda: one.metric("understudy_cycle_errors_total", "train") > errors)

    for _ in range(3):  # as many as the rule wants: its promise counts from there
        another()
    one.fires(watch, "UnderstudyTrainerStuck", slack_s=_OF_A_PROCESS_S, meanwhile=another)
    one.change("cycle_timeout_s = 0.01", "cycle_timeout_s = 21600.0")
    again(one, "train")
    one.resolves(watch, "UnderstudyTrainerStuck")


def the_prompt_is_edited(one: Rig, watch: Watch) -> None:
    prompt = open_site(one.settings).lane(None).teacher.prompt_file
    assert prompt is not None
    before = prompt.read_text("utf-8")
    prompt.write_text(f"Be kind.\n{before}", "utf-8")
    again(one, "train")
    one.fires(watch, "UnderstudyAnswersStale", slack_s=_OF_A_PROCESS_S)
    prompt.write_text(before, "utf-8")
    again(one, "train")
    one.resolves(watch, "UnderstudyAnswersStale")


def the_buffer_is_damaged(one: Rig, watch: Watch) -> None:
    """A byte of a stored item flips, and the next count of the items finds it."""
    site = open_site(one.settings)
    with site.redis_client() as client:
        item = next(iter(site.buffer(client).items(LANE)))
        name = f"{{{LANE.use_case}}}:{LANE.tenant}:item:{item.item_id}"
        client.setrange(name, 30, bytes([cast("bytes", client.get(name))[30] ^ 1]))
        list(site.buffer(client).items(LANE))
    one.fires(watch, "UnderstudyBufferDamaged", slack_s=_OF_A_PROCESS_S)
    one.command("buffer", "rebuild", "-r", "a test")
    one.resolves(watch, "UnderstudyBufferDamaged")


def audits_disagree(one: Rig, watch: Watch) -> None:
    """Of a champion's answers, which nobody serves here, the teacher shares none; the next champion is unproven."""
    (version,) = publish(one.settings, b"one")
    one.publish(*(answered(one, f"audit {number}", 100 + number, audits=version) for number in range(60)))
    one.fires(watch, "UnderstudyPromiseBroken", slack_s=_OF_A_PROCESS_S)
    publish(one.settings, b"two")
    one.resolves(watch, "UnderstudyPromiseBroken")


def somebody_opens_too_many_connections(one: Rig, watch: Watch) -> None:
    one.start("serve", files=200)
    one.until("it is seen", lambda: watch.sees("serve"))
    one.fires(watch, "UnderstudyConnectionsFull", slack_s=_OF_A_PROCESS_S, meanwhile=lambda: one.connect(200))
    one.resolves(watch, "UnderstudyConnectionsFull")


def answered(one: Rig, text: str, number: int, *, audits: str | None = None) -> bytes:
    """An answer under the present prompt; as an audit it disagrees with what the version said."""
    section = open_site(one.settings).lane(None)
    label = section.labels[0]
    event = escalation(
        text,
        number=number,
        label=label,
        time_s=wall_clock_s(),
        reason="low_confidence" if audits is None else "audit",
        student=None if audits is None else section.labels[1],
        version=audits or "",
    )
    answer = LabelAnswer(model=section.teacher.model, prompt_version=Reading.of(section).version(), label=label)
    return encode(msgspec.structs.replace(event, teacher=answer))


def again(one: Rig, name: str) -> None:
    """Restart a process, for it to see what the settings are now."""
    one.kill(name)
    one.start(name)


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
    one.until("calls", lambda: one.metric("understudy_teacher_calls_total", "serve") > 60, meanwhile=one.ask)
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
        yield replace(watch, told=lambda alert: alert in receiver.begun), receiver
