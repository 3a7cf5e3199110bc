"""A lane of `rank` on the topic of another tenant's `classify`: what every log must make of it."""

import json
import random
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from ops.checks.lag import lags_of
from ops.checks.verify import verify_site
from store.buffer.item import Item
from store.event import (
    EscalationCause,
    Lane,
    RankAnswer,
    RankEscalation,
    RankInput,
    Reason,
    StudentOpinion,
    encode,
    new_event_id,
    utc,
)
from tests.contracts.escalations import START_S
from tests.ops.sites import LANE, open_site
from tests.ops.stand import TOPIC, Stand, until

SHOP = Lane("shop", LANE.use_case)
BOTH = [LANE, SHOP]
OFFERED = ("red shoes", "blue shoes, ask jane@example.com", "a\n  hat")


def add_the_shop(stand: Stand, task: str = "rank") -> None:
    """Put the lane into the settings, with those of the lane that is there."""
    text = stand.path.read_text("utf-8")
    lane = text[text.index("[[lanes]]") :].partition("\n[processes")[0]
    lane = re.sub(r"(?m)^tenant = .*$", f'tenant = "{SHOP.tenant}"', lane)
    lane = re.sub(r"(?m)^#task = .*$", f"task = {json.dumps(task)}", lane)
    lane = re.sub(r"(?m)^labels = .*$", "", lane)
    lane = re.sub(r"(?m)^prompt_file = .*$", 'prompt_file = "prompts/shop.txt"', lane)
    (stand.path.parent / "prompts" / "shop.txt").write_text("$query\n$documents\n", "utf-8")
    stand.path.write_text(f"{text}\n{lane}", "utf-8")
    stand.site = open_site(stand.path)


def ranked(
    number: int,
    came: Sequence[int] = (0, 1, 2),
    *,
    documents: Sequence[str] = OFFERED,
    scores: Sequence[float] | None = (0.1, 0.9, 0.5),
    output: Sequence[int] | None = None,
    reason: Reason = "low_confidence",
) -> RankEscalation:
    """An event whose documents came in some order; scores and output are told of them as they are listed here."""
    place = {old: new for new, old in enumerate(came)}
    opinion = None if output is None else msgspec.json.encode([place[old] for old in output]).decode()
    teacher = RankAnswer(
        model="m",
        prompt_version="p",
        scores=None if scores is None else [scores[old] for old in came],
        order=None if scores is not None else [place[1], place[2]],
    )
    return RankEscalation(
        id=new_event_id(START_S + number, random.Random(number)),
        time=utc(START_S + number),
        use_case=SHOP.use_case,
        tenant=SHOP.tenant,
        input=RankInput(query="for the  beach?", documents=[documents[old] for old in came]),
        teacher=teacher,
        student=None if opinion is None else StudentOpinion(version="v1", output=opinion, confidence=0.5),
        escalation=EscalationCause(reason=reason, threshold=0.8, propensity=0.1 if reason == "audit" else 1.0),
    )


def send(stand: Stand, *events: RankEscalation | bytes, key: str = "one partition") -> None:
    """Append each, until the log has it."""
    for event in events:
        value = event if isinstance(event, bytes) else encode(event)
        until(lambda: stand.appender.append(TOPIC, key=key.encode(), value=value).result(10) is None)  # noqa: B023


def all_read(stand: Stand) -> bool:
    """Whether ingest has taken everything."""
    return not any(one.lag_records for one in lags_of(stand.site, [LANE.use_case]))


def items(stand: Stand) -> list[Item]:
    """The shop's."""
    return list(stand.buffer.items(SHOP))


def is_sound(stand: Stand) -> bool:
    """Whether the buffer holds what the log says, of either lane."""
    found = verify_site(stand.site, BOTH)
    assert found.ok, found
    return bool(found.complete)


def two_producers_ask_one_question(stand: Stand) -> None:
    """Permuted documents are one question, on whatever partition; one document changed is another."""
    add_the_shop(stand)
    changed = (*OFFERED[:2], "a cap")
    broken: Any = msgspec.structs.replace(ranked(9), teacher=RankAnswer(model="m", prompt_version="p", scores=[0.5]))
    with stand.ingesting():
        stand.send(6)
        send(stand, ranked(1), ranked(2, (2, 0, 1), output=(1, 2, 0), reason="audit"), key="one")
        send(stand, ranked(3, (1, 2, 0), scores=None), ranked(1), key="another")
        send(stand, ranked(4, documents=changed), broken, ranked(5, (1, 0, 2), output=(0, 1, 2), reason="audit"))
        until(lambda: all_read(stand))
    same, other = sorted(items(stand), key=lambda item: -item.count)
    assert (same.count, other.count, stand.buffer.counters(SHOP).repeats) == (4, 1, 1)
    assert len(same.tally["m@p"]) == 4
    assert {said.split(" ", 2)[2] for said in same.tally["m@p"]} == {
        '{"scores":[0.5,0.9,0.1]}',
        '{"order":[1,0]}',
    }
    documents = getattr(same.input, "documents", [])
    assert documents[0] == "a\n  hat", "the layout is kept"
    assert documents[1].startswith("blue shoes, ask <EMAIL:")
    (tally,) = stand.buffer.audits(SHOP).values()
    assert (tally.audits, tally.agreed) == (2, 1)
    assert stand.buffer.dead(LANE.use_case) == {"wrong_shape": 1}
    assert stand.counters.counted == 6
    assert is_sound(stand)
