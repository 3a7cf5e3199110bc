"""Dead letters as people deal with them: listed, opened, replayed once, dropped; on the embedded log."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from ops.checks.lag import lags_of
from ops.checks.verify import verify_site
from ops.cli.app import app
from ops.letters.reading import list_letters
from ops.state.run_files import RunFile, write_run_file
from store.buffer.repair.letters import LetterBook
from store.buffer.repair.lists import Lists, ListsHeld
from store.event import Lane, encode, wall_clock_s
from store.letters.decisions import LetterDecision
from tests.contracts.escalations import escalation
from tests.ops.sites import LANE, open_site
from tests.ops.stand import TOPIC, Stand, standing, until

ADDED = "angry customer"  # a label that the lane does not have at first


@pytest.fixture
def stand(tmp_path: Path, redis_url: str) -> Iterator[Stand]:
    with standing(tmp_path, redis_url) as made:
        yield made


def call(stand: Stand, *arguments: str, code: int = 0) -> Any:
    found = CliRunner().invoke(app, [*arguments, "-c", str(stand.path), "-o", "json"])
    assert found.exit_code == code, found.output
    return json.loads(found.stdout) if found.stdout else found.stderr


def bury(stand: Stand, *values: bytes) -> None:
    """Let ingest find records, of which some are dead, and wait until it has taken all."""
    with stand.ingesting():
        for value in values:
            until(lambda: stand.appender.append(TOPIC, key=b"one partition", value=value).result(10) is None)  # noqa: B023
        until(lambda: not any(one.lag_records for one in lags_of(stand.site, [LANE.use_case])))


def off_list(number: int = 0, text: str = "I am cross, write to ada@example.com") -> bytes:
    event = msgspec.structs.replace(escalation(text, number=number, label=ADDED), subject="Ada Lovelace")
    return encode(event)


def add_the_label(stand: Stand) -> None:
    text, labels = stand.path.read_text("utf-8"), list(stand.site.lane(None).labels)
    stand.path.write_text(text.replace(json.dumps(labels), json.dumps([*labels, ADDED])), "utf-8")


def newest_of_each_slot(stand: Stand) -> list[ListsHeld]:
    """What each part of the log was last read by: ingest notes it part by part."""
    return list({held.slot: held for held in Lists(stand.client).held(LANE.use_case)}.values())


def test_letters_are_listed_by_kind_with_an_example_and_one_is_shown_redacted(stand: Stand) -> None:
    bury(stand, b"call me: ada@example.com", off_list(0), off_list(1))
    found = call(stand, "dlq", "list")
    kinds = {kind["reason"]: kind for kind in found["kinds"]}
    assert {name: (kind["tenant"], kind["open"], kind["total"]) for name, kind in kinds.items()} == {
        "undecodable": (None, 1, 1),
        "off_list": ("acme", 2, 2),
    }
    assert kinds["off_list"]["example"] == found["letters"][-1]["id"]
    assert "ada" not in json.dumps(found).lower()
    shown = call(stand, "dlq", "show", kinds["off_list"]["example"][:6])
    assert ADDED in shown["content"]
    assert "cross" in shown["content"]
    assert "ada" not in shown["content"].lower()
    plain = call(stand, "dlq", "show", kinds["undecodable"]["example"])
    assert plain["content"].startswith("call me: ")
    assert "ada@example.com" not in plain["content"]
    assert "one is wanted" in call(stand, "dlq", "show", "", code=4)
    assert [one["reason"] for one in call(stand, "dlq", "list", "--kind", "off_list")["letters"]] == ["off_list"] * 2


def test_a_replay_waits_for_the_mend_and_happens_once(stand: Stand) -> None:
    bury(stand, off_list(0), off_list(1), b"junk")
    (left,) = call(stand, "dlq", "replay", "--all", "--kind", "off_list", "--dry-run", code=1)
    assert [letter["done"] for letter in left["letters"]] == [False, False]
    assert all("would die again, off_list" in letter["why_not"] for letter in left["letters"])
    call(stand, "dlq", "replay", "--all", "--kind", "off_list", "-r", "too soon", code=1)
    assert stand.buffer.open_dead(LANE.use_case) == {"off_list": 2, "undecodable": 1}

    add_the_label(stand)
    (would,) = call(stand, "dlq", "replay", "--all", "--kind", "off_list", "--dry-run")
    assert [(letter["done"], letter["why_not"]) for letter in would["letters"]] == [(False, None)] * 2
    (done,) = call(stand, "dlq", "replay", "--all", "--kind", "off_list", "-r", "the label was added")
    assert [letter["done"] for letter in done["letters"]] == [True, True]
    assert "no open dead letter" in call(stand, "dlq", "replay", "--all", "--kind", "off_list", "-r", "again", code=4)
    with ExitStack() as stack:
        again = Stand(stand.path, stack)  # under the settings as they are now
        stack.enter_context(again.ingesting())
        until(lambda: again.counters.counted == 2)
    assert stand.buffer.open_dead(LANE.use_case) == {"off_list": 0, "undecodable": 1}
    shown = call(stand, "dlq", "show", done["letters"][0]["id"])
    assert (shown["letter"]["state"], shown["why"]) == ("replayed", "the label was added")
    assert shown["who"]
    assert call(stand, "status", code=3)["dead_letters"] == {"support": {"undecodable": 1}}


def test_a_replay_is_refused_while_the_ingest_that_runs_reads_by_older_lists(stand: Stand) -> None:
    bury(stand, off_list(0))
    add_the_label(stand)
    ours = RunFile(name="ingest", pid=os.getpid(), started_s=wall_clock_s())
    write_run_file(stand.site.run_directory, ours)
    replay = ("dlq", "replay", "--all", "-r", "the label was added")
    said = call(stand, *replay, code=4)
    assert "would bury the letters again: restart it" in said
    call(stand, *replay, "--dry-run")
    assert stand.buffer.open_dead(LANE.use_case) == {"off_list": 1}
    with ExitStack() as stack:
        again = Stand(stand.path, stack)
        stack.enter_context(again.ingesting())
        until(lambda: all(ADDED in lists.lists[str(LANE)].labels for lists in newest_of_each_slot(stand)))
        call(stand, *replay)
        until(lambda: again.counters.counted == 1)


def test_letters_of_a_lane_that_is_added_later_are_replayed_and_history_is_judged_by_the_lanes_there_were(
    stand: Stand,
) -> None:
    newco = Lane("newco", LANE.use_case)
    bury(stand, *(encode(escalation(f"question {number}", number=number, lane=newco)) for number in range(3)))
    assert stand.buffer.open_dead(LANE.use_case) == {"unknown_lane": 3}
    text = stand.path.read_text("utf-8")
    lanes = text[text.index("[[lanes]]") :]
    more = re.sub(r"(?m)^tenant = .*$", 'tenant = "newco"', lanes.partition("\n[processes")[0])
    stand.path.write_text(f"{text}\n{more}", "utf-8")
    stand.site = open_site(stand.path)
    call(stand, "dlq", "replay", "--all", "-r", "the lane was added")
    with stand.ingesting():
        until(lambda: stand.buffer.counters(newco).counted == 3)
        until(lambda: not any(one.lag_records for one in lags_of(stand.site, [LANE.use_case])))
    report = verify_site(stand.site, [LANE, newco])
    assert report.ok, report
    call(stand, "buffer", "rebuild", "-r", "to see")
    assert stand.buffer.dead(LANE.use_case) == {"unknown_lane": 3}
    assert (stand.buffer.counters(newco).counted, stand.buffer.counters(newco).repeats) == (3, 0)
    assert verify_site(stand.site, [LANE, newco]).ok


def test_a_dropped_letter_is_named_no_longer_and_nothing_of_it_is_lost(stand: Stand) -> None:
    bury(stand, b"junk", b"more junk", off_list())
    one = call(stand, "dlq", "list")["letters"][0]["id"]
    assert call(stand, "dlq", "drop", one, code=2)  # without a reason
    assert call(stand, "dlq", "drop", "-r", "which?", code=2)
    call(stand, "dlq", "drop", one, "-r", "a test")
    assert stand.buffer.open_dead(LANE.use_case) == {"off_list": 1, "undecodable": 1}
    call(stand, "dlq", "drop", "--all", "-r", "a test")
    assert stand.buffer.open_dead(LANE.use_case) == {"off_list": 0, "undecodable": 0}
    assert call(stand, "status", code=3)["dead_letters"] == {"support": {}}
    assert {letter["state"] for letter in call(stand, "dlq", "list")["letters"]} == {"dropped"}
    assert call(stand, "dlq", "show", one)["content"] == "junk"
    assert stand.verify().ok
    bury(stand, b"and again")
    assert stand.buffer.open_dead(LANE.use_case) == {"off_list": 0, "undecodable": 1}
    with stand.ingesting():
        until(lambda: stand.metric("dead_letters_open", reason="undecodable") == 1)
        until(lambda: stand.metric("dead_letters_open", reason="off_list") == 0)


def test_a_drop_is_taken_back_once_and_what_was_dropped_again_says_why(stand: Stand) -> None:
    bury(stand, off_list(), b"{ no event")
    letters = call(stand, "dlq", "list")["letters"]
    call(stand, "dlq", "drop", letters[0]["id"], "-r", "a test producer")
    planned = call(stand, "dlq", "reopen", "--all", "--dry-run")
    assert ([one["id"] for one in planned[0]["letters"]], planned[0]["letters"][0]["done"]) == (
        [letters[0]["id"]],
        False,
    )
    reopened = call(stand, "dlq", "reopen", letters[0]["id"], "-r", "it can be mended")
    assert [one["done"] for one in reopened[0]["letters"]] == [True]
    states = {letter["id"]: letter["state"] for letter in call(stand, "dlq", "list")["letters"]}
    assert set(states.values()) == {"open"}
    assert stand.buffer.open_dead(LANE.use_case) == stand.buffer.dead(LANE.use_case), "it is counted again"
    assert "no dropped dead letter" in call(stand, "dlq", "reopen", "--all", "-r", "again", code=4)
    call(stand, "dlq", "drop", letters[0]["id"], "-r", "not worth it")
    assert call(stand, "dlq", "show", letters[0]["id"])["why"] == "not worth it"


def test_letters_that_the_log_has_deleted_are_dropped_by_number(stand: Stand) -> None:
    bury(stand, b"junk", b"more junk", b"[")
    stand.client.hincrby(f"{{{LANE.use_case}}}:dead", "undecodable", 2)  # as where retention has deleted two
    (would,) = call(stand, "dlq", "drop", "--all", "--dry-run")
    assert (len(would["letters"]), would["gone"]) == (3, 2)
    (done,) = call(stand, "dlq", "drop", "--all", "-r", "a test")
    assert (len(done["letters"]), done["gone"]) == (3, 2)
    assert stand.buffer.open_dead(LANE.use_case) == {"undecodable": 0}


def test_a_replay_that_was_killed_half_way_is_taken_up_again_and_not_by_two_at_once(stand: Stand) -> None:
    book = LetterBook(stand.client)

    def decision(at_s: float) -> LetterDecision:
        return LetterDecision(outcome="replayed", who="me", why="a test", at_s=at_s)

    assert book.begin(LANE.use_case, "a", decision(0.0))
    assert not book.begin(LANE.use_case, "a", decision(60.0))
    assert book.begin(LANE.use_case, "a", decision(121.0))
    book.give_up(LANE.use_case, "a")
    assert book.begin(LANE.use_case, "a", decision(122.0))
    assert book.settle(LANE.use_case, "a", "off_list", decision(123.0))
    assert not book.settle(LANE.use_case, "a", "off_list", decision(124.0))
    assert not book.begin(LANE.use_case, "a", decision(999.0))
    assert stand.client.hget(f"{{{LANE.use_case}}}:letters:settled", "off_list") == b"1"
    assert [one.at_s for one in book.decisions(LANE.use_case).values()] == [123.0]


def test_what_is_wrong_is_counted_by_tenant_and_answers_of_another_prompt_are_told(stand: Stand) -> None:
    stand.send(1)
    bury(stand, b"junk", off_list(), encode(escalation("under another prompt", number=9)))
    names = {"tenant": "acme", "reason": "off_list"}
    assert stand.metric("events_unusable_total", **names) == 1
    assert stand.metric("events_unusable_total", tenant="acme", reason="other_prompt") == 1
    assert stand.metric("events_unusable_total", tenant="-", reason="undecodable") == 1
    assert stand.counters.counted == 2
    assert len(list_letters(stand.site, [LANE.use_case], 10).letters) == 2


def test_what_an_alert_counts_begins_at_zero_so_that_the_first_burst_is_a_rise(stand: Stand) -> None:
    with stand.ingesting():
        until(lambda: stand.metric("events_unusable_total", tenant="acme", reason="other_prompt") == 0)


def test_lag_is_told_by_partition(stand: Stand) -> None:
    stand.send(5, questions=5)
    found = call(stand, "lag")
    assert sum(one["lag_records"] for one in found) == 5
    assert all((one["oldest_unread"] is not None) == (one["lag_records"] > 0) for one in found)
    with stand.ingesting():
        until(lambda: stand.counters.counted == 5)
    assert {one["lag_records"] for one in call(stand, "lag")} == {0}
    assert {one["position"] for one in call(stand, "lag")} - {"-1"} != set()
