"""What people say of single questions: signed, undoable, and read by the next cycle whatever the log brings again."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from ops.answers.reading import Reading
from ops.exits import REFUSED
from ops.wiring.train import cycle_settings, lane_training
from store.event import wall_clock_s
from store.registry.manifest import SNAPSHOT_NAME
from tests.ops.sites import LANE
from tests.ops.stand import Stand
from tests.ops.task_lanes import call, item_of, make_task_site, run, send
from tests.tiny import tiny_encoder
from trainer.cycle import work_on
from trainer.learn.tasks import TASKS as LEARNED
from trainer.snapshot import Snapshot, freeze
from trainer.work import CycleWork, settings_of

CORRECTED: Final[dict[str, tuple[str, Any]]] = {  # as it is given, and as it is read back
    "classify": ("Other", "other"),
    "rank": ('{"order": [2, 0, 1]}', {"order": [2, 0, 1]}),
    "chat": ("write to the desk", "write to the desk"),
}
WRONG: Final[dict[str, tuple[str, str]]] = {
    "classify": ("fax", "is not on the list of labels"),
    "rank": ('{"scores": [0.1]}', "1 numbers for 3 documents"),
    "chat": ("  ", "an answer is a text"),
}


def frozen(stand: Stand) -> Snapshot:
    """What a cycle of the trainer would draw now."""
    section = stand.site.lane(None)
    reading = Reading.of(section)
    training, settings = lane_training(stand.site.settings, section, reading), cycle_settings(stand.site.settings)
    return freeze(
        stand.buffer.items(LANE),
        LEARNED[section.task].recipe().freezing(training, settings, None),
        prompt_version=training.prompt_version,
        split=settings.split,
        quarantine_s=0.0,
        now_s=wall_clock_s(),
        seed=0,
        positions={},
        allowed_labels=training.labels,
        rules=reading.rules(stand.site, []),
    )


def learned(stand: Stand, question: int) -> Any:
    """The answer that the next cycle has for a question; None where it has none."""
    rules = lane_training(stand.site.settings, stand.site.lane(None), Reading.of(stand.site.lane(None))).rules
    name = item_of(stand, question).item_id
    rows = [row for row in frozen(stand).rows if row.item_id == name]
    return [rules.shown(said) for said in rows[0].answers] if rows else None


@pytest.fixture(params=["classify", "rank", "chat"])
def stand(tmp_path: Path, redis_url: str, request: pytest.FixtureRequest) -> Iterator[Stand]:
    """A lane of each task, with the answers to four questions."""
    with ExitStack() as stack:
        path = make_task_site(tmp_path / "site", request.param, redis_url)
        found = Stand(path, stack)
        send(found, 0, 1, 2, 3)
        yield found


def test_a_corrected_answer_is_what_the_next_cycle_learns_and_undoing_it_brings_the_teachers_back(stand: Stand) -> None:
    task = stand.site.lane(None).task
    (given, read), said = CORRECTED[task], learned(stand, 1)
    name = item_of(stand, 1).item_id
    before = frozen(stand)
    planned = run(stand, "answers", "correct", name[:12], given, "--dry-run")
    assert (planned["rulings"], planned["done"], planned["questions"][0]["after"]) == ([], False, read)
    assert learned(stand, 1) == said
    signed = run(stand, "answers", "correct", name[:12], given, "--reason", "a person knows better")
    assert (signed["rulings"], signed["total"], signed["questions"][0]["before"]) == ([1], 1, said)
    assert learned(stand, 1) == [read]
    after = frozen(stand)
    assert {row.item_id: row.split for row in after.rows} == {row.item_id: row.split for row in before.rows}
    assert json.loads(after.content)["corrected"] == [name]
    ruling = stand.site.rulings(LANE)[0]
    assert (ruling.who, ruling.why, ruling.kind) == ("operator", "a person knows better", "correct")
    undone = run(stand, "answers", "undo", 1, "--reason", "no")
    assert (undone["kind"], undone["undoes"], undone["items"]) == ("undo", 1, 1)
    assert learned(stand, 1) == said


def test_a_correction_outlives_a_repeat_a_rebuild_and_an_empty_redis(stand: Stand) -> None:
    given, read = CORRECTED[stand.site.lane(None).task]
    run(stand, "answers", "correct", item_of(stand, 1).item_id, given, "--reason", "so")
    send(stand, 1, 1)  # the teacher says the same again
    assert item_of(stand, 1).count == 3
    assert learned(stand, 1) == [read]
    assert stand.verify().ok
    run(stand, "buffer", "rebuild", "--reason", "a look")
    assert learned(stand, 1) == [read]
    for key in stand.client.scan_iter("*item*"):
        stand.client.delete(key)
    assert run(stand, "buffer", "rebuild", "--reason", "all items were gone")[0]["items_after"] == 4
    assert learned(stand, 1) == [read]
    assert stand.verify().ok


def test_what_is_dropped_is_learned_and_judged_by_no_more_whatever_is_delivered_again(stand: Stand) -> None:
    said, name = learned(stand, 2), item_of(stand, 2).item_id
    run(stand, "answers", "drop", name, "--reason", "a slip")
    assert learned(stand, 2) is None
    assert frozen(stand).left_out.dropped == 1
    send(stand, 2)
    assert learned(stand, 2) is None
    run(stand, "buffer", "rebuild", "--reason", "a look")
    assert learned(stand, 2) is None
    status = call(stand, "status")
    assert json.loads(status.stdout)["lanes"][0]["answers"]["dropped"] == 1
    again = call(stand, "answers", "drop", name, "--reason", "once more")
    assert again.exit_code == REFUSED
    assert "dropped already" in " ".join(again.stderr.split())
    run(stand, "answers", "undo", 1, "--reason", "no slip")
    assert learned(stand, 2) in (said, said * 2)  # what only counts is one answer, what is an event's own is two


def test_the_later_of_two_rulings_about_a_question_holds(stand: Stand) -> None:
    (given, read), name = CORRECTED[stand.site.lane(None).task], item_of(stand, 0).item_id
    run(stand, "answers", "drop", name, "--reason", "a slip")
    run(stand, "answers", "correct", name, given, "--reason", "the right one")
    assert learned(stand, 0) == [read]
    run(stand, "answers", "undo", 2, "--reason", "not right")
    assert learned(stand, 0) is None
    assert run(stand, "answers", "list")["in_force"] == [1]


def test_what_is_no_answer_or_no_question_is_refused_and_says_why(stand: Stand) -> None:
    (wrong, why), name = WRONG[stand.site.lane(None).task], item_of(stand, 0).item_id
    refused = call(stand, "answers", "correct", name, wrong, "--reason", "so")
    assert refused.exit_code == REFUSED, refused.output
    assert why in " ".join(refused.stderr.split())
    unknown = call(stand, "answers", "correct", "f" * 32, CORRECTED[stand.site.lane(None).task][0], "--reason", "so")
    assert unknown.exit_code == REFUSED
    assert "no item begins with ffff" in " ".join(unknown.stderr.split())
    assert call(stand, "answers", "correct", name, "x").exit_code == 2, "without a reason"
    assert call(stand, "answers", "drop", "--reason", "all of them").exit_code == 2, "nothing was named"
    assert stand.site.rulings(LANE) == []


def test_an_answer_by_hand_is_redacted_before_it_is_signed(tmp_path: Path, redis_url: str) -> None:
    with ExitStack() as stack:
        stand = Stand(make_task_site(tmp_path / "site", "chat", redis_url), stack)
        send(stand, 0)
        run(stand, "answers", "correct", item_of(stand, 0).item_id, "write to joe@example.org", "--reason", "so")
        (ruling,) = stand.site.rulings(LANE)
        assert "joe@example.org" not in str(ruling)
        assert "email" in str(ruling.answers).lower()


def test_a_whole_cycle_learns_what_a_file_of_corrections_says(tmp_path: Path, redis_url: str) -> None:
    with ExitStack() as stack:
        path = make_task_site(tmp_path / "site", "classify", redis_url)
        text = path.read_text().replace(
            '#encoder = "minilm"', f'encoder = "{tiny_encoder(tmp_path / "encoder", layers=1)}"'
        )
        path.write_text(text.replace("#max_tokens = 256", "max_tokens = 32"))
        stand = Stand(path, stack)
        send(stand, *range(40))
        ids = sorted(one.item_id for one in stand.buffer.items(LANE))
        rows = [{"item": name, "answer": "delivery" if place < 20 else "refund"} for place, name in enumerate(ids)]
        reviewed = tmp_path / "reviewed.jsonl"
        reviewed.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        found = run(stand, "answers", "correct", "--file", reviewed, "--reason", "reviewed")
        assert (found["total"], found["unchanged"], found["rulings"]) == (20, 20, [1])
        version = cycle(stand, tmp_path)
        opened = stand.site.registry.versions(LANE).open(version)
        snapshot = json.loads(opened.read(SNAPSHOT_NAME))
        assert {row["id"]: row["label"] for row in snapshot["rows"]} == {row["item"]: row["answer"] for row in rows}
        assert snapshot["corrected"] == ids[:20]


def cycle(stand: Stand, folder: Path) -> str:
    """A cycle's own process' work, here; the version that it published."""
    settings, section = stand.site.settings, stand.site.lane(None)
    reading = Reading.of(section)
    training = replace(lane_training(settings, section, reading), readings=reading.rules(stand.site, []))
    result = work_on(
        CycleWork(
            cycle_id="c",
            training=training,
            kind="head",
            candidate=None,
            champion=None,
            anchor=None,
            now_s=wall_clock_s(),
            settings=settings_of(training, cycle_settings(settings)),
            redis_url=stand.site.redis_url(),
            items_per_stratum=100,
            registry_root=stand.site.registry_root,
            trusted_keys=settings.keys.trusted,
            signing_key=settings.keys.trainer,
            cache=folder / "cache",
            code_version="test",
        )
    )
    assert result.version is not None, result.verdict.refusals
    return result.version
