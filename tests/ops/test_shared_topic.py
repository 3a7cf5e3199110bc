"""A lane of `rank` beside one of `classify`, on the embedded log: read, verified, rebuilt, brought back."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from ops.answers.reading import Reading
from ops.cli.app import app
from ops.open_log import open_history
from store.answers.census import count
from store.buffer.ledger import Application
from store.event import DeadReason, Undecodable, encode
from stream.dead_letter import DeadLetters, Letter
from stream.log import Record
from tests.ops.shared_topic import SHOP, add_the_shop, all_read, is_sound, items, ranked, send
from tests.ops.shared_topic import two_producers_ask_one_question as asked_by_two
from tests.ops.sites import LANE, open_site
from tests.ops.stand import TOPIC, Stand, standing, until


@pytest.fixture
def stand(tmp_path: Path, redis_url: str) -> Iterator[Stand]:
    with standing(tmp_path, redis_url, partitions="2") as made:
        yield made


def call(stand: Stand, *arguments: str, code: int = 0) -> Any:
    found = CliRunner().invoke(app, [*arguments, "-c", str(stand.path), "-o", "json"])
    assert found.exit_code == code, found.output
    return json.loads(found.stdout) if found.stdout else found.stderr


def test_two_producers_who_offer_documents_in_another_order_ask_one_question(stand: Stand) -> None:
    asked_by_two(stand)


def test_a_rebuild_makes_the_same_of_the_log(stand: Stand) -> None:
    asked_by_two(stand)
    before = items(stand)
    for name in stand.client.keys(f"{{{SHOP.use_case}}}:{SHOP.tenant}:item:*"):
        stand.client.setrange(name, 30, b"#")
    assert not items(stand)
    call(stand, "buffer", "rebuild", "-r", "damaged")
    assert items(stand) == before
    assert is_sound(stand)


def test_a_census_of_a_lane_without_labels_counts_by_prompt_alone(stand: Stand) -> None:
    asked_by_two(stand)
    drawing = Reading.of(stand.site.lane(str(SHOP))).drawing(stand.site, stand.client, 2e9)
    stale = count(items(stand), drawing)
    assert (stale.labels, stale.prompts["m@p"].alone) == ({"all": {"stale": 2}}, 2)
    fresh = count(items(stand), replace(drawing, prompt_version="m@p"))
    assert fresh.labels == {"all": {"fresh": 2}}


def test_a_changed_tolerance_holds_from_where_it_was_read_on(stand: Stand) -> None:
    add_the_shop(stand)
    outside: dict[str, Any] = {"scores": (0.5, 0.8, 0.1), "output": (0, 1, 2), "reason": "audit"}
    with stand.ingesting():
        send(stand, ranked(1, **outside))
        until(lambda: all_read(stand))
    before, _, after = stand.path.read_text("utf-8").rpartition("\n#epsilon = 0.05")
    stand.path.write_text(f"{before}\nepsilon = 0.5{after}", "utf-8")
    stand.site = open_site(stand.path)
    with stand.ingesting():
        send(stand, ranked(2, **outside))
        until(lambda: all_read(stand))
    (tally,) = stand.buffer.audits(SHOP).values()
    assert (tally.audits, tally.agreed) == (2, 1)
    assert is_sound(stand), "each is judged as it was judged then"
    call(stand, "buffer", "rebuild", "-r", "to see")
    (tally,) = stand.buffer.audits(SHOP).values()
    assert (tally.audits, tally.agreed) == (2, 1)


@pytest.mark.parametrize("reason", ["wrong_shape", "unknown_lane"])
def test_what_an_earlier_release_buried_for_its_task_is_brought_back_by_a_replay(
    stand: Stand, reason: DeadReason
) -> None:
    """Its records lie in the log below the position, counted as dead, and were never noted as kept.

    Of the first release's settings either lacked the lane, or had one whose events it did not keep.
    """
    of_nobody = msgspec.structs.replace(ranked(3), tenant="nobody")
    send(stand, ranked(1), ranked(2, (2, 1, 0)), of_nobody)
    with open_history(stand.site, stand.client) as history:
        (slot,) = (one for one in history.slots(TOPIC) if history.bounds(one)[1] == "3")
    letters = [
        Letter(
            slot=slot,
            record=Record(
                topic=TOPIC,
                partition=slot.partition,
                offset=offset,
                key=b"k",
                value=encode(event),
                headers=(),
                timestamp_ms=1_700_000_000_000,
            ),
            fault=Undecodable(reason=reason, detail="rank events are not kept by this release"),
            tenant=SHOP.tenant,
        )
        for offset, event in enumerate((ranked(1), ranked(2, (2, 1, 0))))
    ]
    DeadLetters(stand.appender, stand.site.secret).write(LANE.use_case, letters)
    claim = stand.buffer.claim(LANE.use_case, slot, "0.1.0")
    dead = Counter[DeadReason]({reason: 2}) + Counter[DeadReason]({"wrong_shape": 1})  # of one the letter is gone
    stand.buffer.apply(
        Application(use_case=LANE.use_case, slot=slot, fence=claim.fence, start="-1", next="3", entries=(), dead=dead)
    )
    add_the_shop(stand)
    assert call(stand, "dlq", "list")["by_reason"] == {reason: 2}
    (done,) = call(stand, "dlq", "replay", "--all", "-r", "ingest reads rank now")
    assert all(letter["done"] for letter in done["letters"])
    with stand.ingesting():
        until(lambda: all_read(stand))
    (item,) = items(stand)
    assert item.count == 2
    opened = {reason: 0, "wrong_shape": 1}
    assert stand.buffer.open_dead(LANE.use_case) == opened
    assert is_sound(stand), "what was buried stays counted as it was"
    call(stand, "buffer", "rebuild", "-r", "to see")
    assert items(stand) == [item]
    assert stand.buffer.dead(LANE.use_case) == dead, "for its task, whatever else is wrong with it"
    assert stand.buffer.open_dead(LANE.use_case) == opened
    assert is_sound(stand)
    assert {one["lag_records"] for one in call(stand, "lag")} == {0}
