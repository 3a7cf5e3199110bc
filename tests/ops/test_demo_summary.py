"""The summary has every key that was promised, and each claim that does not hold is named."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.demo.measures.measure import windows
from ops.demo.measures.summary import EventCount, build, ledger
from tests.ops.one_run import (
    PLANTED,
    ROLLBACK,
    TOTAL,
    cycles,
    judged,
    lane,
    measured,
    played,
    run,
    summary,
    swaps,
    traffic,
)

KEYS = {
    "traffic": {"path", "sha256", "rows", "skipped"},
    "requests": {"sent", "student", "teacher", "withheld", "failed"},
    "events": {"accepted", "ingested", "dead", "repeats", "lost", "twice"},
    "promise": {"target", "state", "n", "low"},
    "rollback": {"from", "to", "cli_s", "served_after", "pinned"},
}
LISTED = {
    "windows": {"n", "escalated_ratio", "student_agreement", "answered_agreement", "system_agreement"},
    "cycles": {"id", "planted", "verdict", "refusals", "rows_judged", "difference", "lower", "delta", "rows_needed"},
    "swaps": {"from", "to", "publish_s", "failed"},
}


def test_the_summary_has_every_key_and_is_one_line_of_json() -> None:
    assert {"settings_changed", "wall_s", "children_left", "verified", "figures", "lanes"} <= summary().keys()
    found = lane()
    assert {"task", *KEYS, *LISTED} <= found.keys()
    assert all(found[name].keys() == keys for name, keys in KEYS.items())
    assert {"teacher_only_usd", "spent_usd", "saved_usd", "audits_usd", "priced_by"} <= found["money"].keys()
    assert all(one.keys() >= keys for name, keys in LISTED.items() for one in found[name])
    assert {"value", "low", "high"} <= found["windows"][-1]["student_agreement"].keys()
    assert "\n" not in json.dumps(summary())


def test_a_run_in_which_everything_held_breaks_no_claim() -> None:
    assert summary()["broken_claims"] == []


def test_the_planted_challenger_is_marked_and_nobody_else_is() -> None:
    assert [one["version"] for one in lane()["cycles"] if one["planted"]] == [PLANTED]


def events(**changes: int) -> dict[str, Any]:
    found = {"accepted": 9, "ingested": 9, "dead": 0, "repeats": 0, "lost": 0, "twice": 0}
    return {"ledger": EventCount(**(found | changes))}


def failed_request() -> dict[str, Any]:
    outcomes, _ = played()
    return {"outcomes": [replace(outcomes[0], agreed=None, served_by=None, error="HTTP 503: no"), *outcomes[1:]]}


def with_promise(target: float) -> dict[str, Any]:
    return {"promise": {"target": target, "state": "held", "n": 9, "low": 0.7}}


def planted_passes() -> dict[str, Any]:
    return {"cycles": [one | {"verdict": "pass"} for one in cycles()]}


def never_better() -> dict[str, Any]:
    return {"windows": windows(judged()[::-1], 12)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (failed_request(), ["1 requests failed", "HTTP 503: no"]),
        ({"outcomes": played()[0][:-1]}, [f"{TOTAL - 1} requests were sent"]),
        (
            {"ledger": EventCount(accepted=9, ingested=8, dead=0, repeats=0, lost=1, twice=0)},
            ["1 accepted events were lost"],
        ),
        (
            {"ledger": EventCount(accepted=9, ingested=9, dead=2, repeats=0, lost=0, twice=0)},
            ["2 events became dead letters"],
        ),
        ({"verified": False}, ["understudy verify"]),
        (
            {"bought": [{"calls": 9, "system_agreement": 0.8, "random_agreement": 0.9, "oracle_agreement": 0.95}]},
            ["9 calls where the student is unsure"],
        ),
        ({"swaps": [swaps()[0] | {"failed": True}]}, ["1 swaps failed"]),
        ({"children_left": 2}, ["2 processes"]),
        (with_promise(0.999), ["promised", "in requests"]),
        (never_better(), ["did not rise", "did not fall"]),
        ({"windows": [], "first_agreement": 0.2}, ["did not rise", "did not fall"]),  # too short to learn anything
        ({"cycles": [], "planted": None}, ["no version was ever promoted", "never judged"]),
        (planted_passes(), ["verdict on the planted challenger is pass, not fail"]),
        ({"rollback": None}, ["no version to roll back to"]),
        ({"rollback": replace(ROLLBACK, served_after=None)}, ["were served None"]),
        ({"rollback": replace(ROLLBACK, pinned=False)}, ["not pinned"]),
        ({"rollback": replace(ROLLBACK, cli_s=5.1)}, ["took 5.1 s"]),
    ],
)
def test_each_claim_that_does_not_hold_is_named(changes: Mapping[str, Any], words: list[str]) -> None:
    told = " | ".join(summary(**changes)["broken_claims"])
    assert all(word in told for word in words), told


def test_a_student_that_serves_well_from_its_first_day_rose_from_the_first_version_that_was_made() -> None:
    assert not any("did not rise" in told for told in summary(first_agreement=0.2, **never_better())["broken_claims"])


def test_a_users_own_traffic_need_not_teach_the_student_anything() -> None:
    assert summary(traffic=traffic(generated=False), **never_better())["broken_claims"] == []


def test_a_summary_of_nothing_is_a_summary() -> None:
    found = measured(outcomes=[], judged=[], windows=[], cycles=[], swaps=[], planted=None, rollback=None)
    assert found.windows == []
    assert lane(outcomes=[], judged=[], windows=[])["requests"]["sent"] == 0


@given(copies=st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 3)), dead=st.integers(0, 2))
def test_where_every_event_is_counted_once_nothing_is_lost_or_twice(copies: dict[str, int], dead: int) -> None:
    counted = max(0, len(copies) - dead)
    found = ledger(set(copies), copies, counted=counted, ineligible=0, repeats=0, dead=len(copies) - counted)
    assert (found.lost, found.twice) == (0, 0)


def test_a_promised_event_that_is_not_in_the_log_is_lost() -> None:
    assert ledger({"a", "b"}, {"a": 1}, counted=1, ineligible=0, repeats=0, dead=0).lost == 1


def test_an_event_of_the_log_that_ingest_did_not_count_is_lost() -> None:
    assert ledger({"a", "b"}, {"a": 1, "b": 1}, counted=1, ineligible=0, repeats=0, dead=0).lost == 1


def test_an_event_that_was_counted_more_than_once_is_twice() -> None:
    assert ledger({"a"}, {"a": 2}, counted=2, ineligible=0, repeats=0, dead=0).twice == 1


def test_books_that_miss_an_answer_or_count_one_twice_are_a_broken_claim() -> None:
    assert summary()["broken_claims"] == []
    found = measured().money
    assert found is not None
    for more in (1, -1):
        wrong = msgspec.structs.replace(found, student=found.student + more)
        (told,) = summary(money=wrong)["broken_claims"]
        assert told.startswith(f"the books count {wrong.student} answers by the student")
    assert summary(money=None)["broken_claims"] == ["the lane's books could not be read"]


def test_of_several_lanes_each_has_its_part_and_a_broken_claim_names_its_lane() -> None:
    quiet = measured(traffic=traffic("shop"), acts=False, planted=None, rollback=None, cycles=cycles()[:2])
    found = build(run(measured(), quiet))
    assert list(found["lanes"]) == ["demo/support", "demo/shop"]
    assert found["broken_claims"] == []
    failing = build(run(measured(), replace(quiet, cycles=[])))
    assert failing["broken_claims"] == ["demo/shop: no version was ever promoted"]
