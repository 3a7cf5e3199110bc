"""A lane of each task with a real ingest, for what every task's commands have in common."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec
from typer.testing import CliRunner, Result

from ops.cli.app import app
from store.buffer.item import Item
from store.event import (
    ChatAnswer,
    ChatEscalation,
    ChatInput,
    EscalationCause,
    LabelAnswer,
    Message,
    RankAnswer,
    RankEscalation,
    RankInput,
    encode,
    new_event_id,
    utc,
)
from tests.contracts.escalations import START_S, escalation
from tests.ops.sites import LANE, make_site
from tests.ops.stand import TOPIC, Stand, until

DOCUMENTS: Final = ("late", "broken", "lost")


def common(number: int) -> dict[str, Any]:
    return {
        "id": new_event_id(START_S + number, Random(number)),
        "time": utc(START_S + number),
        "use_case": LANE.use_case,
        "tenant": LANE.tenant,
        "student": None,
        "escalation": EscalationCause(reason="forced", threshold=None, propensity=1.0),
    }


def label_event(stand: Stand, question: int, number: int) -> Any:
    teacher = LabelAnswer(model=stand.model, prompt_version=stand.prompt_version, label="refund")
    return msgspec.structs.replace(escalation(f"question {question}", number=number, student=None), teacher=teacher)


def rank_event(stand: Stand, question: int, number: int) -> Any:
    teacher = RankAnswer(model=stand.model, prompt_version=stand.prompt_version, scores=[0.9, 0.5, 0.1])
    asked = RankInput(query=f"question {question}", documents=list(DOCUMENTS))
    return RankEscalation(input=asked, teacher=teacher, **common(number))


def chat_event(stand: Stand, question: int, number: int) -> Any:
    teacher = ChatAnswer(model=stand.model, prompt_version=stand.prompt_version, text="call the bank")
    asked = ChatInput(messages=[Message(role="user", content=f"question {question}")])
    return ChatEscalation(input=asked, teacher=teacher, **common(number))


EVENTS: Final[dict[str, Callable[[Stand, int, int], Any]]] = {
    "classify": label_event,
    "rank": rank_event,
    "chat": chat_event,
}


def call(stand: Stand, *arguments: Any) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments), "-c", str(stand.path), "-o", "json"])


def run(stand: Stand, *arguments: Any) -> Any:
    found = call(stand, *arguments)
    assert found.exit_code == 0, (found.output, found.exception)
    return json.loads(found.stdout)


def send(stand: Stand, *questions: int) -> None:
    """Publish an answer to each question, and let ingest take it."""
    make = EVENTS[stand.site.lane(None).task]
    for question in questions:
        value = encode(make(stand, question, stand.sent))
        stand.sent += 1
        stand.appender.append(TOPIC, key=b"k", value=value).result(30)
    with stand.ingesting():
        until(lambda: stand.counters.counted + stand.counters.repeats == stand.sent)


def item_of(stand: Stand, question: int) -> Item:
    (found,) = [one for one in stand.buffer.items(LANE) if f"question {question}" in str(one.input)]
    return found


def make_task_site(folder: Path, task: str, redis_url: str) -> Path:
    if task == "classify":
        labels = '["refund", "delivery", "other"]'
        return make_site(folder, url=f'"{redis_url}"', labels=labels, quarantine_s="0.0", min_items_per_label="1")
    made = CliRunner().invoke(
        app, ["init", str(folder), "--task", task, *(["--teacher", "rerank"] if task == "rank" else [])]
    )
    assert made.exit_code == 0, made.output
    path = folder / "understudy.toml"
    text = path.read_text().replace("training_permitted = false", "training_permitted = true")
    path.write_text(
        text.replace('#url = ""', f'url = "{redis_url}"').replace("#quarantine_s = 3600.0", "quarantine_s = 0.0")
    )
    return path
