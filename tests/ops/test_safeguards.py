"""Safeguards end to end: what may not be learned from never is, and a card number is at the teacher alone."""

import logging
import re
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from ops.cli.app import app
from ops.cycles.asking import ask_for_cycle
from ops.wiring import train as wiring
from store.control import Control
from store.errors import LogUnavailableError
from store.event import Lane, encode, wall_clock_s
from store.redact import redact
from store.secrets import DataSecret
from stream.dead_letter import read_dead_letters
from stream.embedded.log import EmbeddedLog
from tests.ops.chain import LANE, Chain
from trainer.worker import WorkerStoppedError

CARD = "4111 1111 1111 1111"
SPELLINGS = re.compile(rb"4111[ -]?1111[ -]?1111[ -]?1111")
FORBIDDEN = {"training_permitted": False}
LANES = (LANE, Lane("bolt", "support"), Lane("acme", "orders"))
WARM_UP = "This is a test question."
QUESTION = {"input": "unsure about my parcel"}


class SeenWork:
    """In the worker's place: notes what it is handed, and drops it."""

    handed: ClassVar[list[Any]] = []

    def __init__(self, entry: str) -> None:
        self.entry = entry

    def run(self, work: Any, **_: object) -> None:
        self.handed.append(work)
        message = "seen"
        raise WorkerStoppedError(message)

    def close(self) -> None:
        pass


@pytest.fixture
def chain(tmp_path: Path, redis_url: str) -> Chain:
    return Chain(tmp_path / "site", redis_url)


def test_an_answer_that_may_be_learned_from_comes_into_a_snapshot(chain: Chain) -> None:
    site = chain.site()
    (answer,) = chain.ask(site, QUESTION)
    assert answer.json()["data"][0]["served_by"] == "teacher"
    chain.ingest(site, 1)
    (row,) = chain.snapshot(site).rows
    assert (row.words, row.label) == ("unsure about my parcel", "no")


def by_the_gateway(chain: Chain) -> None:
    chain.ask(chain.site(**FORBIDDEN), QUESTION)
    chain.ingest(chain.site(), 1)


def by_ingest(chain: Chain) -> None:
    chain.ask(chain.site(), QUESTION)
    chain.ingest(chain.site(**FORBIDDEN), 1)


def by_the_event(chain: Chain) -> None:
    chain.send(chain.site(), encode(chain.event("unsure about my parcel", "no", eligible=False)))
    chain.ingest(chain.site(), 1)


def by_an_audits_gateway(chain: Chain) -> None:
    (answer,) = chain.ask(chain.site(**FORBIDDEN, audit_ratio=1.0), {"input": "sure about my parcel"})
    assert answer.json()["data"][0]["served_by"] == "student"
    chain.ingest(chain.site(), 1)


@pytest.mark.parametrize("forbidden", [by_the_gateway, by_ingest, by_the_event, by_an_audits_gateway])
def test_what_may_not_be_learned_from_is_counted_and_in_no_snapshot(
    chain: Chain, forbidden: Callable[[Chain], None]
) -> None:
    """Each safeguard alone: the other rooms would have let it through."""
    forbidden(chain)
    site = chain.site()
    assert site.buffer(chain.client).counters(LANE).ineligible == 1
    snapshot = chain.snapshot(site)
    assert snapshot.rows == ()
    assert b"parcel" not in snapshot.content
    assert not any(b"parcel" in value for name, value in chain.kept_in_redis().items() if b":item:" in name)


@pytest.mark.parametrize(("changes", "cycles"), [({}, 1), (FORBIDDEN, 0)])
def test_the_trainer_trains_no_lane_that_it_may_not_though_its_items_are_kept(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], cycles: int
) -> None:
    chain.ask(chain.site(), QUESTION)
    chain.ingest(chain.site(), 1)
    monkeypatch.setattr(wiring, "Worker", SeenWork)
    monkeypatch.setattr(SeenWork, "handed", [])
    site = chain.site(**changes)
    ask_for_cycle(Control(chain.client), LANE, kind="head", candidate=None, why="test", now_s=wall_clock_s())
    trainer = wiring.trainer(site, chain.client, "me")
    trainer.tick()
    trainer.queues.close()
    assert len(SeenWork.handed) == cycles


@pytest.mark.parametrize("command", ["import", "import --dry-run", "cycle start"])
def test_nobody_can_order_it_by_hand(chain: Chain, command: str) -> None:
    chain.site(**FORBIDDEN)
    log = chain.folder / "log.jsonl"
    log.write_text('{"text": "where is my parcel", "label": "no"}\n' * 3)
    words = command.split()
    arguments = [words[0], str(log), *words[1:]] if words[0] == "import" else words
    done = CliRunner().invoke(app, [*arguments, "--config", str(chain.folder / "understudy.toml")])
    assert done.exit_code != 0
    assert "training_permitted" in done.output
    assert not any(b"parcel" in value for value in chain.kept_in_redis().values())
    assert Control(chain.client).next_cycle_request(LANE) is None


def test_a_card_number_is_at_the_teacher_and_nowhere_else(chain: Chain, caplog: pytest.LogCaptureFixture) -> None:
    """Log, Redis, dead letters, snapshot, metrics, log lines, spool, answers and the student: none has seen it."""
    caplog.set_level(logging.DEBUG, logger="serve.request.calls")
    site = chain.site()
    texts = [f"unsure: {CARD}", f"sure: {CARD.replace(' ', '')}", f"novel {CARD.replace(' ', '-')} it is"]
    with capture_logs() as lines:
        asked = [{"input": text, "user": CARD} for text in texts]
        answers = chain.ask(site, asked[0], idempotency_key=f"k-{CARD}") + chain.ask(site, *asked[1:])
        chain.endpoint.answer = f"your card {CARD} was charged"  # no label, and it quotes the question
        answers += chain.ask(site, {"input": f"unsure again: {CARD}", "user": CARD})
        chain.endpoint.answer = "no"
        chain.ingest(site, 2)
    assert sum(SPELLINGS.search(repr(body).encode()) is not None for body in chain.endpoint.bodies) == 3
    assert [answer.json()["data"][0]["served_by"] for answer in answers] == ["teacher", "student", "teacher", "student"]
    snapshot = chain.snapshot(site)
    token = redact(CARD, site.secret.redaction_key(LANE))
    assert any(token in row.words for row in snapshot.rows)
    assert chain.student.read
    assert all(token in text or text == WARM_UP for text in chain.student.read)
    looked_at = {
        "redis": b"".join(chain.kept_in_redis().values()),
        "snapshot": snapshot.content,
        "metrics": chain.metrics(),
        "log lines": repr(lines).encode(),
        "answers": b"".join(answer.content + repr(answer.headers).encode() for answer in answers),
        "files": b"".join(path.read_bytes() for path in site.settings.state_dir.rglob("*") if path.is_file()),
    }
    assert token.encode() in looked_at["redis"]
    assert token.encode() in looked_at["log lines"]  # what the teacher said, at debug level
    assert [name for name, found in looked_at.items() if SPELLINGS.search(found)] == []


def test_a_card_number_that_another_producer_sends_is_redacted_by_ingest_and_sealed_in_dead_letters(
    chain: Chain,
) -> None:
    site = chain.site()
    good = chain.event(f"my card {CARD}", "no")
    off_list = chain.event(f"a card {CARD}", f"card {CARD}", number=1)
    broken = encode(good).replace(b'"schema":1', f'"schema":"{CARD}"'.encode())
    named = encode(chain.event(f"card {CARD}", "no", number=2)).replace(b'"support"', f'"{CARD}"'.encode())
    with capture_logs() as lines:
        chain.send(site, encode(good), encode(off_list), broken, named)
        chain.ingest(site, 4)
    letters = list(read_dead_letters(EmbeddedLog(chain.client), "support", site.secret))
    assert len(letters) == 3
    kept = {name: value for name, value in chain.kept_in_redis().items() if b"understudy.support" not in name}
    dead = b"".join(value for name, value in chain.kept_in_redis().items() if b"dead" in name)
    assert dead
    snapshot = chain.snapshot(site)
    assert [row.words for row in snapshot.rows] == [f"my card {redact(CARD, site.secret.redaction_key(LANE))}"]
    for found in (*kept.values(), dead, snapshot.content, chain.metrics(), repr(lines).encode()):
        assert SPELLINGS.search(found) is None, found


def test_an_event_waits_in_the_spool_redacted_while_the_log_is_away(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = chain.site()
    with monkeypatch.context() as patch:
        patch.setattr("ops.open_log.EmbeddedLog.append", _refuses)
        chain.ask(site, {"input": f"unsure: {CARD}", "user": CARD})
    spooled = b"".join(path.read_bytes() for path in (site.settings.state_dir / "spool").rglob("*") if path.is_file())
    token = redact(CARD, site.secret.redaction_key(LANE))
    assert token.encode() in spooled
    assert SPELLINGS.search(spooled) is None


def _refuses(*_: object, **__: object) -> Any:
    done: Future[None] = Future()
    done.set_exception(LogUnavailableError("away"))
    return done


def test_two_lanes_share_no_key_and_a_lane_has_one_for_each_purpose() -> None:
    secret, other = DataSecret(bytes(32)), DataSecret(b"o" * 32)
    keys = [
        make(lane)
        for made in (secret, other)
        for lane in LANES
        for make in (made.lane_key, made.redaction_key, made.subject_key, made.audit_key)
    ]
    assert len(set(keys)) == len(keys) == 24
    tokens = {redact(CARD, secret.redaction_key(lane)) for lane in LANES}
    assert len(tokens) == len(LANES)
