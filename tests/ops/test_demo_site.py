"""The demo's traffic and settings: read from files as they are, and compared with production's."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from ops.demo.plan import DemoPlan, pace_of
from ops.demo.plan import prepare_traffic as prepare_all
from ops.demo.site import configure, differences, make_site, set_key
from ops.demo.tasks.play import RATE, DemoTraffic, Pace
from ops.example import example_toml
from ops.settings import Settings
from store.errors import SettingsError
from store.event import RankInput, TextInput


def plan(tmp_path: Path, **changes: object) -> DemoPlan:
    tmp_path.mkdir(exist_ok=True)
    return DemoPlan(**({"out": tmp_path} | changes))  # type: ignore[arg-type]


def prepare_traffic(plan: DemoPlan) -> DemoTraffic:
    """The support desk's alone."""
    (found,) = prepare_all(replace(plan, task="classify"))
    return found


def asked(traffic: DemoTraffic) -> list[tuple[str, str]]:
    found = []
    for request in traffic.requests:
        assert isinstance(request.value, TextInput)
        found.append((request.value.text, request.recorded))
    return found


def file_of(tmp_path: Path, *rows: object) -> Path:
    file = tmp_path / "given.jsonl"
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return file


def test_generated_traffic_is_written_with_the_answers_that_the_teacher_will_give(tmp_path: Path) -> None:
    traffic = prepare_traffic(plan(tmp_path, requests=60))
    sent = [json.loads(line) for line in traffic.file.read_text().splitlines()]
    assert [(row["text"], row["teacher"]["label"]) for row in sent] == asked(traffic)
    assert len(traffic.requests) == 60


def test_a_bad_row_is_skipped_with_its_line(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": "x"}, "{", {"text": "b"}, {"text": " ", "label": "x"}, {"text": "c", "label": "y"}]
    traffic = prepare_traffic(plan(tmp_path, traffic=file_of(tmp_path, *rows), file_order=True))
    assert asked(traffic) == [("a", "x"), ("c", "y")]
    assert [bad.line for bad in traffic.skipped] == [2, 3, 4]


def test_a_file_is_shuffled_by_the_seed_unless_its_order_is_asked_for(tmp_path: Path) -> None:
    file = file_of(tmp_path, *({"text": f"t{n}", "label": str(n % 2)} for n in range(50)))
    in_order = asked(prepare_traffic(plan(tmp_path, traffic=file, file_order=True)))
    one, again, other = (asked(prepare_traffic(plan(tmp_path, traffic=file, seed=seed))) for seed in (1, 1, 2))
    assert [text for text, _ in in_order] == [f"t{n}" for n in range(50)]
    assert one == again != other
    assert sorted(one) == sorted(in_order) != list(one)


def test_a_text_that_comes_again_has_the_answer_that_was_recorded_first(tmp_path: Path) -> None:
    rows = [{"text": "a  b", "label": "x"}, {"text": "a b", "label": "y"}, {"text": "c", "label": "y"}]
    traffic = prepare_traffic(plan(tmp_path, traffic=file_of(tmp_path, *rows), file_order=True))
    assert [label for _, label in asked(traffic)] == ["x", "x", "y"]


def test_columns_are_found_or_named(tmp_path: Path) -> None:
    file = file_of(tmp_path, *({"id": n, "said": f"t{n}", "verdict": {"by": str(n % 2)}} for n in range(4)))
    with pytest.raises(SettingsError, match="TEXT_COLUMN="):
        prepare_traffic(plan(tmp_path, traffic=file))
    named = plan(tmp_path, traffic=file, text_column="said", label_column="verdict.by", file_order=True)
    assert asked(prepare_traffic(named))[:2] == [("t0", "0"), ("t1", "1")]


def test_the_shared_streams_work_unchanged(tmp_path: Path, shared_data: Path) -> None:
    for name, labels in (("isear.jsonl", 7), ("banking77.jsonl", 77)):
        traffic = prepare_traffic(plan(tmp_path, traffic=shared_data / name))
        assert len(traffic.terms.labels) == labels
        assert not traffic.skipped


def test_traffic_with_one_label_is_refused(tmp_path: Path) -> None:
    file = file_of(tmp_path, {"text": "a", "label": "x"}, {"text": "b", "label": "x"})
    with pytest.raises(SettingsError, match="two different labels"):
        prepare_traffic(plan(tmp_path, traffic=file))


def test_the_settings_that_differ_are_found_by_comparing(tmp_path: Path) -> None:
    chosen = plan(tmp_path, requests=60, target=0.75)
    traffic = prepare_traffic(chosen)
    file = make_site(chosen)
    changed = configure(file, chosen, [traffic], "http://127.0.0.1:1/v1")
    assert changed["lanes.promise.target"] == [0.95, 0.75]
    assert changed["trainer.fine_tune"] == [True, False]
    assert changed["trainer.quarantine_s"] == [3600.0, 0.0]
    assert not {"lanes.tenant", "lanes.labels", "lanes.teacher.base_url", "state_dir"} & changed.keys()
    settings = Settings.load(file)
    assert differences(settings, settings) == {}
    assert settings.lanes[0].labels == traffic.terms.labels


def test_a_second_demo_starts_afresh(tmp_path: Path) -> None:
    chosen = plan(tmp_path)
    secret = make_site(chosen).with_name("data.secret")
    before = secret.read_text()
    make_site(chosen)
    assert secret.read_text() != before


def test_a_key_is_set_in_its_own_table() -> None:
    text = set_key(example_toml(), "gate", "delta", 0.07)
    assert tomllib.loads(text)["gate"] == {"delta": 0.07}
    assert set_key(text, "gate", "delta", 0.08) == set_key(example_toml(), "gate", "delta", 0.08)


@pytest.mark.parametrize(("table", "key"), [("gate", "min_new_labels"), ("nothing", "delta")])
def test_a_key_that_is_not_there_is_an_error(table: str, key: str) -> None:
    with pytest.raises(SettingsError, match=f"{table}.{key}"):
        set_key(example_toml(), table, key, 1)


def test_every_task_is_played_at_once_and_all_lanes_end_together(tmp_path: Path) -> None:
    chosen = plan(tmp_path, requests=60)
    support, shop = prepare_all(chosen)
    assert (str(support.lane), str(shop.lane)) == ("demo/support", "demo/shop")
    assert pace_of(chosen, support, [support, shop]) == pace_of(chosen, shop, [support, shop]) == Pace(rate=RATE / 2)
    file = make_site(chosen)
    configure(file, chosen, [support, shop], "http://127.0.0.1:1/v1")
    first, second = Settings.load(file).lanes
    assert (first.task, first.teacher.kind, first.labels) == ("classify", "chat", support.terms.labels)
    assert (second.task, second.teacher.kind, second.labels) == ("rank", "rerank", ())
    assert second.teacher.prompt_file is None
    assert (second.rank.k, second.rank.epsilon) == (shop.terms.tolerance.k, shop.terms.tolerance.epsilon)


def test_a_shops_lists_are_read_back_as_they_were_generated(tmp_path: Path) -> None:
    (shop,) = prepare_all(plan(tmp_path, task="rank", requests=40))
    (again,) = prepare_all(plan(tmp_path / "again", task="rank", traffic=shop.file, file_order=True))
    assert again.requests == shop.requests


def test_a_bad_list_is_skipped_with_its_line_and_one_that_comes_again_keeps_its_scores(tmp_path: Path) -> None:
    good = {"query": "q", "documents": ["a", "b"], "scores": [0.1, 0.9]}
    rows = [good, "{", {**good, "scores": [1.0]}, {**good, "documents": []}, {**good, "scores": [0.5, 0.4]}]
    (found,) = prepare_all(plan(tmp_path, task="rank", traffic=file_of(tmp_path, *rows), file_order=True))
    assert [bad.line for bad in found.skipped] == [2, 3, 4]
    assert [request.recorded for request in found.requests] == [(0.1, 0.9), (0.1, 0.9)]
    assert found.requests[0].value == RankInput(query="q", documents=["a", "b"])
