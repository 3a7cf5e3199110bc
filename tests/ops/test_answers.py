"""A list of labels or a prompt was edited: what is said, what is kept, and the ways on; on a real Redis."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
from typer.testing import CliRunner

from ops.answers.reading import Reading
from ops.answers.standing import tell_at_start
from ops.cli.app import app
from store.answers.rulings import Ruling
from store.event import LabelAnswer, encode
from store.money.books import Books
from store.money.reckon import Prices, reckon
from store.registry.moves import fold
from tests.contracts.escalations import escalation
from tests.ops.sites import LANE, open_site
from tests.ops.stand import TOPIC, Stand, standing, until

NOW_S = 1_900_000_000.0


@pytest.fixture
def stand(tmp_path: Path, redis_url: str) -> Iterator[Stand]:
    with standing(tmp_path, redis_url, partitions="2", labels='["refund", "delivery", "other"]') as made:
        yield made


def run(stand: Stand, *arguments: str, code: int = 0, given: str | None = None) -> Any:
    """A command's answer: its JSON, or what it says where it is refused."""
    found = CliRunner().invoke(app, [*arguments, "-c", str(stand.path), "-o", "json"], input=given)
    assert found.exit_code == code, found.output
    return json.loads(found.stdout) if code == 0 or "status" in arguments else found.output


def edit(stand: Stand, **values: str) -> None:
    """Change keys of the settings file, as a person does."""
    text = stand.path.read_text("utf-8")
    for name, value in values.items():
        text, found = re.subn(rf"(?m)^#?{name} = .*$", f"{name} = {value}", text)
        assert found == 1
    stand.path.write_text(text, "utf-8")
    stand.site = open_site(stand.path)


def put(stand: Stand, count: int, label: str, *, of: str = "question", paid_under: str | None = None) -> None:
    """Publish an answer to each of so many questions, under the present prompt unless another is named."""
    section = stand.site.lane(None)
    prompt = Reading.of(section).version() if paid_under is None else paid_under
    for number in range(count):
        event = escalation(f"{of} {number}", number=1000 + stand.sent, label=label)
        stand.sent += 1
        answer = LabelAnswer(model=section.teacher.model, prompt_version=prompt, label=label)
        value = encode(msgspec.structs.replace(event, teacher=answer))
        until(lambda: stand.appender.append(TOPIC, key=b"k", value=value).result(10) is None)  # noqa: B023


def take_in(stand: Stand) -> None:
    """Let an ingest of the present settings apply everything that was published."""
    with stand.ingesting():
        until(lambda: _caught_up(stand))


def _caught_up(stand: Stand) -> bool:
    applied = stand.counters.counted + stand.counters.repeats + sum(stand.buffer.dead(LANE.use_case).values())
    return applied == stand.sent


def answers(stand: Stand) -> dict[str, Any]:
    found: dict[str, Any] = run(stand, "status", code=3)["lanes"][0]["answers"]
    return found


def test_items_of_a_label_that_was_taken_off_stay_are_told_and_history_is_judged_by_the_list_that_held(
    stand: Stand,
) -> None:
    put(stand, 6, "refund")
    take_in(stand)
    edit(stand, labels='["delivery", "other", "lost"]')
    put(stand, 2, "refund", of="late")
    put(stand, 3, "lost", of="new")
    take_in(stand)
    assert dict(stand.buffer.dead(LANE.use_case)) == {"off_list": 2}
    found = answers(stand)
    assert (found["items"], found["fresh"], found["off_list"], found["stale"]) == (9, 3, 6, 0)
    assert found["labels"]["refund"] == {"off_list": 6}
    assert "6 of 9 items are off today's list of labels (refund: 6)" in found["advice"][0]
    assert stand.verify().ok
    rebuilt = run(stand, "buffer", "rebuild", "--reason", "a look")[0]
    assert (rebuilt["items_before"], rebuilt["items_after"], rebuilt["dropped"]) == (9, 9, {})
    assert stand.verify().ok


def test_history_that_nobody_noted_is_judged_by_what_is_known_and_a_rebuild_names_what_it_drops(stand: Stand) -> None:
    put(stand, 4, "refund")
    take_in(stand)
    stand.client.delete("{support}:lists")  # as an earlier release left it
    edit(stand, labels='["delivery", "other"]')
    planned = run(stand, "buffer", "rebuild", "--dry-run")[0]
    assert (planned["items_after"], planned["dropped"]) == (0, {"refund": 4})
    assert not stand.verify().ok
    run(stand, "labels", "retire", "refund", "--reason", "not ours any more")
    planned = run(stand, "buffer", "rebuild", "--dry-run")[0]
    assert (planned["items_after"], planned["dropped"]) == (4, {})
    assert stand.verify().ok


def test_a_renamed_label_is_read_under_its_new_name_late_answers_too_and_undoing_it_brings_all_back(
    stand: Stand,
) -> None:
    put(stand, 5, "refund")
    take_in(stand)
    planned = run(stand, "labels", "rename", "refund", "money back", "--dry-run")
    assert (planned["ruling"], planned["done"], planned["items"]) == (None, False, 5)
    signed = run(stand, "labels", "rename", "refund", "money back", "--reason", "the desk says so")
    assert signed["settings"][1] == 'labels = ["money back", "delivery", "other"]'
    assert answers(stand)["labels"] == {"refund": {"fresh": 5}}, "it sleeps until the list is edited"
    edit(stand, labels=signed["settings"][1].removeprefix("labels = "))
    put(stand, 2, "refund", of="late")
    put(stand, 1, "money back", of="new")
    take_in(stand)
    found = answers(stand)
    assert found["labels"] == {"money back": {"fresh": 8}}
    assert found["advice"] == []
    assert stand.items()["late 0"].stratum == "refund", "what was said is kept"
    assert stand.verify().ok
    assert stand.verify().rulings == 1
    ruling: Ruling = stand.site.registry.rulings(LANE).read()[0]
    assert (ruling.number, ruling.who, ruling.why) == (1, "operator", "the desk says so")
    run(stand, "answers", "undo", "1", "--reason", "no")
    assert answers(stand)["labels"] == {"refund": {"off_list": 7}, "money back": {"fresh": 1}}
    assert "ruling 1" in run(stand, "answers", "undo", "1", "--reason", "again", code=4)
    assert fold(stand.site.registry.moves(LANE).read()).last_move is None


def test_merged_and_retired_labels_are_read_by_rule_and_list_says_how(stand: Stand) -> None:
    put(stand, 3, "refund")
    put(stand, 2, "other", of="other")
    take_in(stand)
    run(stand, "labels", "merge", "refund", "--into", "delivery", "--reason", "one desk")
    retired = run(stand, "labels", "retire", "other", "--reason", "said nothing")
    assert retired["settings"][1] == 'labels = ["refund", "delivery"]'
    edit(stand, labels='["delivery", "lost"]')
    found = answers(stand)
    assert found["labels"] == {"delivery": {"fresh": 3}, "other": {"retired": 2}}
    assert "2 of 5 items have retired labels alone (other: 2)" in found["advice"][0]
    shown = {one["label"]: one for one in run(stand, "labels", "list")["labels"]}
    assert (shown["refund"]["read_as"], shown["refund"]["ruling"], shown["refund"]["on_list"]) == ("delivery", 1, False)
    assert (shown["other"]["retired"], shown["other"]["items"]["retired"]) == (True, 2)
    assert list(shown) == ["delivery", "lost", "refund", "other"]
    assert [run(stand, "answers", "undo", number, "--dry-run")["items"] for number in "12"] == [0, 2]
    table = CliRunner().invoke(app, ["labels", "list", "-c", str(stand.path)]).output
    assert "retired (ruling 2)" in " ".join(table.split())


def test_an_added_label_keeps_every_paid_answer_valid_those_of_earlier_releases_too(stand: Stand) -> None:
    section = stand.site.lane(None)
    key_before = Reading.of(section).key()
    put(stand, 3, "refund")
    put(stand, 2, "delivery", of="earlier", paid_under=Reading.of(section).version(section.labels))
    take_in(stand)
    assert answers(stand)["fresh"] == 5
    added = run(stand, "labels", "add", "lost parcel")
    assert added["ruling"] is None
    assert added["settings"][1] == 'labels = ["refund", "delivery", "other", "lost parcel"]'
    edit(stand, labels=added["settings"][1].removeprefix("labels = "))
    assert Reading.of(stand.site.lane(None)).key() == key_before
    found = answers(stand)
    assert (found["fresh"], found["stale"], found["advice"]) == (5, 0, [])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("add", "refund"), "on the list already"),
        (("add", "Refund "), "read as the label 'refund'"),
        (("rename", "refund", "delivery"), "labels merge"),
        (("rename", "refund", "refund"), "its name already"),
        (("rename", "refund", "Other"), "read as the label 'other'"),
        (("rename", "pigeon", "dove"), "no label 'pigeon': there is refund, delivery, other"),
        (("merge", "refund", "--into", "pigeon"), "--into pigeon"),
        (("merge", "refund", "--into", "refund"), "as itself"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_would(stand: Stand, arguments: tuple[str, ...], says: str) -> None:
    reason = () if arguments[0] == "add" else ("--reason", "so")
    assert says in " ".join(run(stand, "labels", *arguments, *reason, code=4).split())
    assert stand.site.registry.rulings(LANE).read() == []


def test_a_labels_file_is_told_line_by_line_and_a_reason_is_asked_for(stand: Stand) -> None:
    names = stand.path.with_name("labels.txt")
    names.write_text("refund\ndelivery\nother\n")
    text = re.sub(r"(?m)^labels = .*$", "", stand.path.read_text())
    stand.path.write_text(re.sub(r"(?m)^#?labels_file = .*$", 'labels_file = "labels.txt"', text))
    found = run(stand, "labels", "rename", "Refund", "money back", "--dry-run")
    assert found["labels"] == ["refund"]
    assert found["settings"][:3] == [f"in {names}, a label a line:", "- refund", "+ money back"]
    assert "say why" in run(stand, "labels", "retire", "refund", code=2)


def test_rulings_can_be_made_while_redis_is_away(stand: Stand) -> None:
    edit(stand, url='"unix:///nowhere/redis.sock"')
    assert run(stand, "labels", "retire", "other", "--reason", "so")["ruling"] == 1
    assert run(stand, "labels", "list")["in_force"] == [1]
    assert "Redis" in run(stand, "prompt", "list", code=3)


def test_an_edited_prompt_is_told_accepted_by_a_person_and_the_acceptance_undone(stand: Stand) -> None:
    put(stand, 6, "refund")
    take_in(stand)
    old = Reading.of(stand.site.lane(None)).key()
    prompt = stand.site.lane(None).teacher.prompt_file
    assert prompt is not None
    prompt.write_text(prompt.read_text() + " ")
    found = answers(stand)
    assert (found["fresh"], found["stale"]) == (0, 6)
    version = old.partition("@")[2]
    assert f"6 of 6 items were paid under another prompt ({old})" in found["advice"][0]
    assert f"understudy prompt accept --from {version}" in found["advice"][0]
    listed = run(stand, "prompt", "list")
    assert listed["present"] != old
    assert {name: (one["items"], one["counts"]) for name, one in listed["prompts"].items()} == {old: (6, False)}
    assert "is none of" in run(stand, "prompt", "accept", "--from", "zzzz", "--reason", "x", code=4)
    assert run(stand, "prompt", "accept", "--from", version[:5], "--dry-run")["done"] is False
    assert answers(stand)["fresh"] == 0
    signed = run(stand, "prompt", "accept", "--from", version[:5], "--reason", "a blank at the end")
    assert (signed["ruling"], signed["prompt"], signed["items"]) == (1, old, 6)
    assert "restart ingest" in signed["notes"][-1]
    assert (answers(stand)["fresh"], answers(stand)["advice"]) == (6, [])
    assert old in Reading.of(stand.site.lane(None)).drawing(stand.site, stand.client, NOW_S).rules.prompts
    assert "count already" in run(stand, "prompt", "accept", "--from", version, "--reason", "x", code=4)
    run(stand, "answers", "undo", "1", "--reason", "no")
    assert answers(stand)["stale"] == 6


def test_each_process_says_at_its_start_how_the_answers_stand(stand: Stand) -> None:
    put(stand, 3, "refund", paid_under="0123456789abcdef")
    take_in(stand)
    with structlog.testing.capture_logs() as logs:
        tell_at_start(stand.site, threading.Event()).join(60.0)
    (line,) = [one for one in logs if one["event"] == "how the answers are read today"]
    assert (line["log_level"], line["lane"], line["stale"], line["fresh"]) == ("warning", "acme/support", 3, 0)
    assert line["labels"] == {"refund": {"stale": 3}}
    assert "prompt accept --from 0123456789abcdef" in line["why"][0]


class Endpoint:
    """A teacher over HTTP that gives `answer`, but `other` to texts that hold a word."""

    def __init__(self) -> None:
        self.other_where = "nowhere"
        self.asked: list[str] = []
        self.meanwhile: Callable[[], object] = lambda: None  # done once, at the first question
        self._first = threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                text = body["messages"][0]["content"]
                endpoint.asked.append(text)
                if endpoint._first.acquire(blocking=False):
                    endpoint.meanwhile()
                label = "other" if endpoint.other_where in text else "refund"
                said = {
                    "choices": [
                        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": label}}
                    ]
                }
                data = json.dumps(
                    {**said, "usage": {"prompt_tokens": 50, "completion_tokens": 1, "total_tokens": 51}}
                ).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            request_queue_size = 128  # as many as ask at once, however slow the machine is

        self.server = Server(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f'"http://127.0.0.1:{self.server.server_address[1]}/v1"'


@contextmanager
def a_teacher(stand: Stand) -> Iterator[Endpoint]:
    """A teacher that the settings name, and a prompt edited since thirty answers were paid."""
    put(stand, 30, "refund")
    take_in(stand)
    endpoint = Endpoint()
    thread = threading.Thread(target=endpoint.server.serve_forever)
    thread.start()
    try:
        edit(stand, base_url=endpoint.url, input_usd_per_mtok="1000.0")
        prompt = stand.site.lane(None).teacher.prompt_file
        assert prompt is not None
        prompt.write_text("Which? $labels\n$text")
        yield endpoint
    finally:
        endpoint.server.shutdown()
        thread.join()
        endpoint.server.server_close()


ACCEPT = ("prompt", "accept", "--from", "", "--sample", "20", "--reason", "shorter")


def accept(stand: Stand, *more: str, code: int = 0, given: str | None = None) -> Any:
    version = _stale(stand).partition("@")[2]
    return run(stand, *(part or version for part in ACCEPT), *more, code=code, given=given)


@pytest.fixture(autouse=True)
def key_of_the_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a-key-of-no-use")


def test_a_sample_is_priced_paid_from_the_budget_kept_and_accepted_where_it_agrees(stand: Stand) -> None:
    with a_teacher(stand) as teacher:
        assert accept(stand, "--dry-run")["done"] is False
        assert teacher.asked == []
        signed = accept(stand, "--yes", "--at-least", "0.8")
        assert len(teacher.asked) == 20
    money = reckon(Books(stand.client).read(LANE), Prices()).today
    assert (money.calls, money.teacher, money.spent_usd > 0) == (20, 0, True), "in the books as in the budget"
    assert signed["sample"]["asked"] == signed["sample"]["agreed"] == 20
    assert 0.8 < signed["sample"]["low"] < 0.9
    ruling = stand.site.registry.rulings(LANE).read()[0]
    assert ruling.sample is not None
    assert (ruling.kind, ruling.sample.asked, ruling.prompt) == ("accept", 20, signed["prompt"])
    stand.sent += 20
    take_in(stand)
    present = Reading.of(stand.site.lane(None)).key()
    assert sum(present in item.tally for item in stand.items().values()) == 20
    assert (answers(stand)["fresh"], answers(stand)["items"]) == (30, 30), "the same questions: no new items"
    assert stand.verify().ok


def test_a_sample_that_disagrees_accepts_nothing_and_a_person_may_all_the_same(stand: Stand) -> None:
    with a_teacher(stand) as teacher:
        teacher.other_where = "1"  # questions 1, 10 to 19 and 21
        said = accept(stand, "--yes", "--at-least", "0.9", code=1)
        assert "not accepted" in said
        assert "refund is other now" in said
        assert stand.site.registry.rulings(LANE).read() == []
        assert len(teacher.asked) == 20
        assert accept(stand, code=1, given="n\n")
        assert len(teacher.asked) == 20, "nothing was paid"
        said = accept(stand, code=1, given="y\nn\n")
        assert "calls of the budget, $" in said
        assert stand.site.registry.rulings(LANE).read() == []
        found = CliRunner().invoke(
            app,
            ["prompt", "accept", "--from", _stale(stand), "--sample", "5", "--reason", "so", "-c", str(stand.path)],
            input="y\ny\n",
        )
        assert found.exit_code == 0, found.output
    assert [one.kind for one in stand.site.registry.rulings(LANE).read()] == ["accept"]


def _stale(stand: Stand) -> str:
    prompts: dict[str, Any] = run(stand, "prompt", "list")["prompts"]
    return next(name for name, one in prompts.items() if not one["counts"])


def test_somebody_elses_ruling_while_the_teacher_is_asked_costs_no_sample(stand: Stand) -> None:
    with a_teacher(stand) as teacher:
        teacher.meanwhile = lambda: run(stand, "labels", "retire", "delivery", "--reason", "meanwhile")
        signed = accept(stand, "--yes", "--at-least", "0.8")
        assert len(teacher.asked) == 20
    assert [one.kind for one in stand.site.registry.rulings(LANE).read()] == ["retire", "accept"]
    assert (signed["ruling"], signed["sample"]["asked"]) == (2, 20)


def test_who_cannot_sign_pays_nothing(stand: Stand) -> None:
    with a_teacher(stand) as teacher:
        trusted = stand.site.settings.keys.trusted / "operator.pub"
        trusted.rename(trusted.with_suffix(".aside"))
        said = accept(stand, "--yes", "--at-least", "0.8", code=1)
        assert "not among the trusted keys" in said
        assert teacher.asked == []


def test_a_label_that_was_never_on_the_list_is_merged_where_that_is_meant(stand: Stand) -> None:
    put(stand, 2, "angry customer")
    take_in(stand)
    assert dict(stand.buffer.open_dead(LANE.use_case)) == {"off_list": 2}
    merge = ("labels", "merge", "angry customer", "--into", "other", "--reason", "theirs")
    assert "merge --unlisted" in run(stand, *merge, code=4)
    assert "cannot be seen" in run(stand, "labels", "merge", "a\x00b", *merge[3:], "--unlisted", code=4)
    signed = run(stand, *merge, "--unlisted")
    assert (signed["labels"], signed["to"], signed["settings"]) == (["angry customer"], "other", [])
    run(stand, "dlq", "replay", "--all", "--reason", "merged")
    stand.sent += 2
    take_in(stand)
    assert answers(stand)["fresh"] == 2
    assert dict(stand.buffer.open_dead(LANE.use_case)) == {"off_list": 0}
    assert stand.verify().ok


def test_a_budget_that_binds_lets_no_sample_through(stand: Stand) -> None:
    with a_teacher(stand) as teacher:
        edit(stand, calls_per_day="0")
        said = accept(stand, "--yes", "--at-least", "0.5", code=4)
        assert "allows no more calls" in said
        assert teacher.asked == []
        edit(stand, calls_per_day="9", audit_reserve_ratio="0.0")
        said = accept(stand, "--yes", "--at-least", "0.99", code=1)
        assert len(teacher.asked) == 9, "never one more than the budget"
        assert "not answered: the budget" in said
