"""What cannot be read of a teacher is counted by kind and logged redacted; what is off today's list is never served."""

import logging
from pathlib import Path

import httpx
import pytest
import structlog

from serve.lifecycle import Gateway
from serve.tasks.classify.face import on_list
from store.event import canonical_text
from store.student.loaded import LabelOpinion
from tests.serve.client import ask, only_event, run
from tests.serve.fakes import FakeStudent, World, eventually


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [("perhaps", "off_list"), ("yes or no", "several"), ("<think>hm", "truncated"), (" ", "empty")],
)
def test_an_answer_that_cannot_be_read_is_counted_by_its_kind(world: World, answer: str, kind: str) -> None:
    world.endpoint.answer = answer

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        await ask(client, "hello")
        world.endpoint.answer = "**Yes.**"
        assert (await ask(client, "again")).json()["data"][0]["label"] == "yes"
        await eventually(lambda: bool(world.beats) and world.beats[-1].teacher_answers == 2)

    run(world, step)
    assert world.metric("understudy_invalid_answers_total", kind=kind) == 1
    assert (world.beats[-1].teacher_answers, world.beats[-1].teacher_unread) == (2, 1)
    assert only_event(world).teacher.label == "yes"


@pytest.mark.parametrize("debug", [True, False])
def test_what_the_teacher_said_is_logged_redacted_and_only_at_debug_level(
    world: World, *, debug: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.redact = lambda text: canonical_text(text.replace("4111", "<CARD:0>"))
    world.endpoint.answer = "the card is 4111"
    monkeypatch.setattr(logging.getLogger("serve.request.calls"), "level", logging.DEBUG if debug else logging.INFO)
    logging.getLogger("serve.request.calls").manager._clear_cache()  # type: ignore[attr-defined]

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        await ask(client, "hello")

    with structlog.testing.capture_logs() as lines:
        run(world, step)
    said = [line["said"] for line in lines if "said" in line]
    assert said == (["the card is <CARD:0>"] if debug else [])
    (warned,) = [line for line in lines if line["event"] == "invalid answer"]
    assert warned["kind"] == "off_list"
    assert "4111" not in str(lines)


def test_a_label_that_was_taken_off_the_list_is_never_served(world: World) -> None:
    world.serve(student=FakeStudent(labels=("gone", "yes", "no", "maybe")))  # says `gone` at .95

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        world.endpoint.status = 500
        response = await ask(client, "sure")
        assert response.json()["data"][0]["label"] == "yes"
        assert response.headers["x-understudy-degraded"] == "teacher_down"  # it is not sure, so the teacher was asked

    run(world, step)


def test_a_version_that_knows_no_label_of_the_list_has_no_opinion() -> None:
    opinion = LabelOpinion(
        output="a", confidence=0.9, uncertainty=0.2, novelty=0.0, members=[], probs=[0.9, 0.1], labels=("a", "b")
    )
    assert on_list(opinion, ("c",)) is None
    assert on_list(opinion, ("a", "c")) is opinion
