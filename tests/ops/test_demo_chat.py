"""The demo's lane of chat: its traffic, its settings, its recorded teacher, and what a person reads of its answers."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from ops.demo.plan import DemoPlan, pace_of, prepare_traffic
from ops.demo.site import configure, make_site
from ops.demo.tasks.chat import ROWS, SmartHome
from ops.demo.tasks.play import DemoTraffic, Request
from ops.demo.traffic.recorded_talks import read_talks
from ops.demo.traffic.recorded_teacher import Frame, build_app
from ops.settings import Settings
from store.errors import SettingsError
from store.event import ChatInput, Message, TextInput
from store.student.chat import folder as folders
from tests.tiny_decoders import tiny_decoder

HOME = SmartHome()
ASKED = {"role": "user", "content": "lock the door"}
CALL = '{"tool": "lock", "locked": true}'


def talk(text: str, answer: str = CALL) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "teacher": {"text": answer}}


def file_of(tmp_path: Path, *rows: object) -> Path:
    file = tmp_path / "given.jsonl"
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return file


def traffic(tmp_path: Path, **changes: Any) -> DemoTraffic:
    tmp_path.mkdir(exist_ok=True)
    (found,) = prepare_traffic(DemoPlan(out=tmp_path, task="chat", **changes))
    return found


def asked(found: DemoTraffic) -> list[tuple[str, str]]:
    return [(HOME.question(request.value), request.recorded) for request in found.requests]


def test_conversations_are_read_back_as_they_were_generated(tmp_path: Path) -> None:
    generated = traffic(tmp_path, requests=40)
    again = traffic(tmp_path / "again", traffic=generated.file, file_order=True)
    assert again.requests == generated.requests
    assert (generated.generated, again.generated) == (True, False)


def test_a_bad_row_is_skipped_with_its_line_and_what_comes_again_has_its_first_answer(tmp_path: Path) -> None:
    rows = [talk("a"), "{", {"messages": []}, talk("b", " "), talk("a", '{"tool": "none"}'), talk("c", "No.")]
    found = traffic(tmp_path, traffic=file_of(tmp_path, *rows), file_order=True)
    assert asked(found) == [("a", CALL), ("a", CALL), ("c", "No.")]
    assert [bad.line for bad in found.skipped] == [2, 3, 4]


def test_a_long_file_is_sent_in_part_unless_more_is_asked_for(tmp_path: Path) -> None:
    file = file_of(tmp_path, *(talk(f"t{number}") for number in range(ROWS + 50)))
    assert len(traffic(tmp_path, traffic=file).requests) == ROWS
    assert len(traffic(tmp_path, traffic=file, requests=ROWS + 20).requests) == ROWS + 20


def test_a_file_is_shuffled_by_the_seed(tmp_path: Path) -> None:
    file = file_of(tmp_path, *(talk(f"t{number}") for number in range(50)))
    one, again, other = (asked(traffic(tmp_path, traffic=file, seed=seed)) for seed in (1, 1, 2))
    assert one == again != other
    assert sorted(one) == sorted(other)


def test_columns_are_named_as_make_names_them(tmp_path: Path) -> None:
    file = file_of(tmp_path, *({"x": {"y": [ASKED]}, "z": f"{n}", "w": "k"} for n in range(4)))
    with pytest.raises(SettingsError, match="TEXT_COLUMN="):
        traffic(tmp_path, traffic=file)
    named = traffic(tmp_path, traffic=file, text_column="x.y", label_column="z", file_order=True)
    assert asked(named)[0] == ("lock the door", "0")


def test_a_file_without_a_conversation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        traffic(tmp_path, traffic=file_of(tmp_path, {"text": 3}))


def test_the_shared_log_works_unchanged(tmp_path: Path, shared_data: Path) -> None:
    found = traffic(tmp_path, traffic=shared_data / "tool_chat.jsonl")
    assert len(found.requests) == ROWS
    assert not found.skipped


def test_the_lane_learns_with_the_model_that_is_kept_from_one_demo_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "bundled_decoder", lambda: tmp_path)
    plan = DemoPlan(out=tmp_path / "out", task="chat", requests=40)
    plan.out.mkdir()
    kept = tiny_decoder(plan.kept / "smollm2")
    (home,) = prepare_traffic(plan)
    for _ in range(2):  # the installation is made anew, and the model is not
        file = make_site(plan)
        changed = configure(file, plan, [home], "http://127.0.0.1:1/v1")
        settings = Settings.load(file)
        (lane,) = settings.lanes
        assert (lane.task, lane.student.model, lane.teacher.prompt_file) == ("chat", kept.absolute(), None)
        assert settings.trainer.fine_tune
        assert changed["split.calibrate_ratio"] == [0.15, 0.25]
        assert lane.promise.target == HOME.target
    assert not plan.state.is_relative_to(plan.kept)


def test_a_demo_without_the_models_wheel_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "bundled_decoder", lambda: None)
    with pytest.raises(SettingsError, match="make smollm2"):
        HOME.settings(traffic(tmp_path, requests=20), tmp_path / "kept")


def test_it_is_not_among_the_lanes_that_are_played_at_once_and_has_its_own_pace(tmp_path: Path) -> None:
    assert "chat" not in DemoPlan().tasks
    home = traffic(tmp_path, requests=40)
    assert pace_of(DemoPlan(task="chat"), home, [home]) == HOME.pace
    slower = pace_of(DemoPlan(task="chat", rate=0.5), home, [home])
    assert (slower.rate, slower.rush) == (0.5, HOME.pace.rush)


def ask(file: Path, *messages: dict[str, str]) -> httpx.Response:
    async def send() -> httpx.Response:
        app = build_app({}, Frame.of("$text", ()), talks=read_talks(file))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://teacher") as client:
            return await client.post("/v1/chat/completions", json={"model": "recorded", "messages": list(messages)})

    return asyncio.run(send())


def test_the_recorded_teacher_answers_a_whole_conversation_and_no_other(tmp_path: Path) -> None:
    earlier = [ASKED, {"role": "assistant", "content": CALL}, {"role": "user", "content": "and the other one"}]
    file = file_of(tmp_path, talk("lock the door"), {"messages": earlier, "teacher": {"text": "{}"}})
    assert ask(file, ASKED).json()["choices"][0]["message"] == {"role": "assistant", "content": CALL}
    assert ask(file, *earlier).json()["choices"][0]["message"]["content"] == "{}"
    assert ask(file, {"role": "system", "content": "Be brief."}, ASKED).status_code == 422


def test_a_log_that_cannot_be_repeated_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="line 2"):
        read_talks(file_of(tmp_path, talk("a"), {"messages": [ASKED]}))


def test_an_answer_agrees_where_it_is_the_same_json(tmp_path: Path) -> None:
    home, request = (
        traffic(tmp_path, requests=20),
        Request(value=ChatInput(messages=[Message(role="user")]), recorded=CALL),
    )

    def body(text: str | None) -> dict[str, Any]:
        return {
            "choices": [{"message": {"role": "assistant", "content": text}}],
            "understudy": {"served_by": "student"},
        }

    assert HOME.agreed(home, request, body('{"locked":true,"tool":"lock"}'))
    assert not HOME.agreed(home, request, body('{"tool": "lock", "locked": false}'))
    assert HOME.told(body(CALL)) == {"served_by": "student"}
    with pytest.raises(ValueError, match="no text"):
        HOME.agreed(home, request, body(None))


def test_a_person_reads_what_was_said_without_the_instructions() -> None:
    messages = [Message(role="system", content="Be brief."), Message(role="user", content="cold here")]
    said = [Message(role="assistant", content="{}"), Message(role="user", content="in the hall, too")]
    assert HOME.question(ChatInput(messages=[*messages, *said])) == "cold here / {} / in the hall, too"
    with pytest.raises(TypeError, match="TextInput"):
        HOME.question(TextInput(text="cold here"))
