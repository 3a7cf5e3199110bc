"""The gate's rules, each with the number that decides."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from msgspec import structs

from store.registry.manifest import Verdict
from trainer.judge.evaluate import PairedScores
from trainer.judge.gate import GateLimits, Judged, Phase, judge, passed_strict, phase_of, rows_needed
from trainer.judge.intervals import bca, tango

LIMITS = GateLimits(delta=0.02, min_rows=50)
Floats = npt.NDArray[np.float64]


def pairs(
    both: int,
    new: int,
    old: int,
    neither: int = 0,
    *,
    champion: bool = True,
    weights: Floats | None = None,
    hard: int = 0,
    blocking: int = 0,
) -> PairedScores:
    """`hard` and `blocking` mark that many of the last rows: those on which they differ come last."""
    rows = both + new + old + neither
    order = [(True, True)] * both + [(False, False)] * neither + [(True, False)] * new + [(False, True)] * old
    return PairedScores(
        item_ids=tuple(map(str, range(rows))),
        champion=np.array([o for _, o in order], np.float64) if champion else None,
        challenger=np.array([n for n, _ in order], np.float64),
        weights=np.ones(rows) if weights is None else weights,
        clusters=np.arange(rows),
        hard=np.arange(rows) >= rows - hard,
        blocking={"refunds": np.arange(rows) >= rows - blocking} if blocking else {},
        known=0,
    )


def replace_slices(verdict: Verdict, other: Verdict) -> Verdict:
    """A verdict with another one's slices."""
    return structs.replace(verdict, slices=other.slices)


def verdict_of(
    scores: PairedScores,
    phase: Phase,
    *,
    certified: bool = True,
    champion_certified: bool = True,
    limits: GateLimits = LIMITS,
) -> Verdict:
    return judge(scores, certified=certified, champion_certified=champion_certified, limits=limits, phase=phase)


@pytest.mark.parametrize(("delta", "rows"), [(0.01, 6183), (0.02, 1546)])
def test_the_planning_formula_gives_the_published_pairs(delta: float, rows: int) -> None:
    assert rows_needed(delta, 0.05) == rows


def test_the_first_version_passes_with_a_threshold_and_waits_without() -> None:
    scores = pairs(30, 0, 0, 20, champion=False)
    passed = verdict_of(scores, "first", champion_certified=False)
    assert (passed.outcome, passed.difference, passed.student_agreement, passed.rows_needed) == ("pass", None, 0.6, 0)
    waiting = judge(scores, certified=False, champion_certified=False, limits=LIMITS, phase="first", certify_rows=116)
    assert waiting.outcome == "inconclusive"
    assert waiting.rows_needed == 116
    assert "no threshold could be certified" in waiting.refusals[0]


def test_growth_lets_through_what_is_not_shown_to_harm() -> None:
    verdict = verdict_of(pairs(30, 2, 4), "growth")
    assert verdict.outcome == "pass"
    assert verdict.lower is not None
    assert verdict.lower < -LIMITS.delta  # strict would not


def test_harm_fails_in_growth_and_in_strict_with_its_numbers() -> None:
    for phase in ("growth", "strict"):
        verdict = verdict_of(pairs(10, 1, 60, 29), phase)
        assert verdict.outcome == "fail"
        assert verdict.difference == pytest.approx(-0.59)
        assert "0.7000 to 0.1100 on 100 rows" in verdict.refusals[0]
        assert verdict.slices[0].refused
        assert verdict.rows_needed == 0


def test_harm_fails_even_without_a_threshold() -> None:
    verdict = verdict_of(pairs(10, 1, 60, 29), "growth", certified=False)
    assert verdict.outcome == "fail"
    assert len(verdict.refusals) == 2


@pytest.mark.parametrize("phase", ["growth", "strict"])
def test_a_version_without_a_threshold_never_replaces_one_that_has_one(phase: Phase) -> None:
    verdict = verdict_of(pairs(900, 60, 5), phase, certified=False)
    assert verdict.outcome == "inconclusive"
    assert verdict.refusals == [
        "no threshold could be certified: the student may not answer on its own; the champion's is certified and stays"
    ]


def test_strict_passes_on_shown_non_inferiority_alone() -> None:
    assert verdict_of(pairs(1900, 50, 50), "strict").outcome == "pass"
    doubtful = verdict_of(pairs(185, 8, 8), "strict")
    assert doubtful.outcome == "inconclusive"
    assert "may have fallen" in doubtful.refusals[0]
    assert 1000 < doubtful.rows_needed <= 1546
    scarce = verdict_of(pairs(40, 5, 0), "strict")
    assert scarce.outcome == "inconclusive"
    assert "45 judged rows, 50 needed" in scarce.refusals[0]


def test_a_blocking_slice_stops_what_the_whole_lets_pass() -> None:
    scores = pairs(1900, 10, 40, blocking=60)
    assert verdict_of(pairs(1900, 10, 40), "growth").outcome == "pass"
    verdict = verdict_of(scores, "growth")
    assert verdict.outcome == "fail"
    assert verdict.refusals[0].startswith("refunds:")


def test_a_slice_that_is_watched_is_told_and_binds_nobody() -> None:
    worse = replace(
        pairs(1900, 10, 40), watched={"topic: refunds": np.arange(1950) >= 1890, "topic: few": np.arange(1950) < 5}
    )
    for phase in ("growth", "strict"):
        verdict = verdict_of(worse, phase)
        assert verdict == replace_slices(verdict_of(pairs(1900, 10, 40), phase), verdict)
        (told,) = (part for part in verdict.slices if part.kind == "watch")
        assert (told.name, told.rows, told.refused) == ("topic: refunds", 60, False)
        assert told.upper < -LIMITS.delta


def test_held_out_escalations_must_not_get_worse_in_strict() -> None:
    worse = verdict_of(pairs(1900, 5, 15, hard=60), "strict")
    assert worse.outcome == "inconclusive"
    assert worse.refusals[0].startswith("held-out escalations: gain -0.1667")
    assert verdict_of(pairs(1900, 15, 5, hard=60), "strict").outcome == "pass"
    assert verdict_of(pairs(1900, 5, 15, hard=60), "growth").outcome == "pass"


def test_the_anchor_stops_a_slow_slide_in_strict() -> None:
    anchor = pairs(1800, 10, 100)
    verdict = judge(
        pairs(1900, 20, 20), certified=True, champion_certified=True, limits=LIMITS, phase="strict", anchor=anchor
    )
    assert verdict.outcome == "fail"
    assert verdict.refusals[0].startswith("the anchor:")


def test_weights_decide_where_they_differ() -> None:
    weights = np.where(np.arange(1000) >= 970, 10.0, 1.0)  # the rows on which they differ come last
    scores = pairs(960, 10, 30, weights=weights)
    plain = verdict_of(pairs(960, 10, 30), "growth")
    weighted = verdict_of(scores, "growth")
    assert (plain.outcome, weighted.outcome) == ("pass", "fail")
    assert weighted.difference is not None
    assert weighted.difference < -0.2


def test_linked_rows_are_judged_as_one() -> None:
    scores = pairs(180, 0, 20)
    assert verdict_of(scores, "growth").outcome == "fail"
    together = replace(scores, clusters=np.minimum(np.arange(200), 180))
    assert verdict_of(together, "growth").outcome == "pass"


def test_growth_lasts_until_a_strict_pass_and_opens_again_at_half_more_labels() -> None:
    strict = Judged(labels=1000, verdict=verdict_of(pairs(1900, 50, 50), "growth"))
    loose = Judged(labels=500, verdict=verdict_of(pairs(30, 2, 4), "growth"))
    assert phase_of([], champion=False, labels=0, limits=LIMITS) == "first"
    assert phase_of([loose], champion=True, labels=600, limits=LIMITS) == "growth"
    assert phase_of([loose, strict], champion=True, labels=1499, limits=LIMITS) == "strict"
    assert phase_of([loose, strict], champion=True, labels=1500, limits=LIMITS) == "growth"
    assert phase_of([strict, loose], champion=True, labels=1200, limits=LIMITS) == "strict"
    later = replace(strict, labels=2000)
    assert phase_of([strict, later], champion=True, labels=2999, limits=LIMITS) == "strict"
    assert phase_of([strict, later], champion=True, labels=3000, limits=LIMITS) == "growth"
    assert phase_of([], champion=True, labels=0, limits=LIMITS) == "growth"


def test_a_first_version_has_not_passed_strict() -> None:
    assert not passed_strict(verdict_of(pairs(300, 0, 0, champion=False), "first"), LIMITS)


def test_a_phase_that_compares_needs_a_champion() -> None:
    with pytest.raises(ValueError, match="there is none"):
        verdict_of(pairs(10, 0, 0, champion=False), "growth")


def test_two_thousand_weighted_rows_are_judged_alike_twice() -> None:
    weights = np.random.default_rng(1).choice([1.0, 6.67], 2000)
    scores = pairs(1700, 100, 100, 100, weights=weights)
    assert verdict_of(scores, "strict") == verdict_of(scores, "strict")


def test_a_verdict_carries_every_number_that_it_was_decided_on() -> None:
    scores = pairs(300, 12, 20, 8, hard=60, blocking=55)
    verdict = judge(scores, certified=True, champion_certified=True, limits=LIMITS, phase="growth", anchor=scores)
    low, high = tango(300, 12, 20, 8, 2 * LIMITS.alpha)
    assert (verdict.phase, verdict.rows_judged, verdict.delta) == ("growth", 340, LIMITS.delta)
    assert verdict.difference == pytest.approx(-8 / 340)
    assert (verdict.lower, verdict.upper) == (low, high)
    whole, hard, blocking, anchor = verdict.slices
    assert [(part.name, part.kind, part.rows) for part in verdict.slices] == [
        ("all traffic", "retained", 340),
        ("held-out escalations", "hard", 60),
        ("refunds", "blocking", 55),
        ("the anchor", "anchor", 340),
    ]
    assert (whole.champion_agreement, whole.challenger_agreement) == (320 / 340, 312 / 340)
    assert (whole.lower, whole.upper) == (anchor.lower, anchor.upper) == (low, high)
    assert (hard.lower, hard.upper) == tango(20, 12, 20, 8, 2 * LIMITS.alpha)
    assert {part.delta for part in verdict.slices} == {LIMITS.delta}
    assert blocking.difference == pytest.approx(-8 / 55)
    assert [part.refused for part in verdict.slices] == [False] * 4


def test_only_what_is_refused_is_marked_refused() -> None:
    scores = pairs(1900, 10, 40, blocking=60)
    verdict = verdict_of(scores, "growth")
    assert {part.name: part.refused for part in verdict.slices} == {"all traffic": False, "refunds": True}
    doubtful = verdict_of(pairs(1900, 5, 15, hard=60), "strict")
    assert {part.name: part.refused for part in doubtful.slices} == {"all traffic": False, "held-out escalations": True}


@pytest.mark.parametrize(("marked", "counts"), [(49, False), (50, True)])
def test_a_slice_counts_from_the_least_rows_on(marked: int, counts: bool) -> None:  # noqa: FBT001 - a row of the table
    verdict = verdict_of(pairs(400, 5, 5, hard=marked, blocking=marked), "growth")
    assert [part.kind for part in verdict.slices] == ["retained", *(["hard", "blocking"] if counts else [])]


@pytest.mark.parametrize(("rows", "passed"), [(49, False), (50, True)])
def test_strict_takes_the_least_rows_and_no_more(rows: int, passed: bool) -> None:  # noqa: FBT001 - as above
    wide = replace(LIMITS, delta=0.2)
    verdict = verdict_of(pairs(rows, 0, 0), "strict", limits=wide)
    assert (verdict.outcome == "pass") == passed
    assert passed_strict(replace_verdict(verdict, outcome="pass"), wide) == passed


def replace_verdict(verdict: Verdict, **changes: object) -> Verdict:
    return structs.replace(verdict, **changes)


def test_a_pass_counts_as_strict_only_with_rows_bounds_and_every_slice_shown() -> None:
    good = verdict_of(pairs(1900, 40, 30, hard=70), "strict")
    assert passed_strict(good, LIMITS)
    exactly = replace_verdict(good, lower=-LIMITS.delta)
    assert passed_strict(exactly, LIMITS)
    assert not passed_strict(replace_verdict(good, lower=-LIMITS.delta - 1e-9), LIMITS)
    assert not passed_strict(replace_verdict(good, rows_judged=LIMITS.min_rows - 1), LIMITS)
    assert not passed_strict(replace_verdict(good, outcome="inconclusive"), LIMITS)
    no_better = {"lower": 0.0, "difference": LIMITS.hard_gain - 1e-9}  # not shown to be superior
    for index, worse in ((0, {"lower": -0.5}), (1, {"lower": -0.1, "difference": -0.01}), (1, no_better)):
        part = structs.replace(good.slices[index], **worse)
        slices = [part if at == index else other for at, other in enumerate(good.slices)]
        assert not passed_strict(replace_verdict(good, slices=slices), LIMITS)


def test_the_margin_itself_is_allowed() -> None:
    scores = pairs(900, 10, 60)
    seen = verdict_of(scores, "strict")
    assert seen.lower is not None
    assert seen.upper is not None
    assert verdict_of(scores, "strict", limits=replace(LIMITS, delta=-seen.lower)).outcome == "pass"
    assert verdict_of(scores, "strict", limits=replace(LIMITS, delta=-seen.lower - 1e-9)).outcome == "inconclusive"
    assert verdict_of(scores, "strict", limits=replace(LIMITS, delta=-seen.upper)).outcome == "inconclusive"
    assert verdict_of(scores, "strict", limits=replace(LIMITS, delta=-seen.upper - 1e-9)).outcome == "fail"


def test_without_a_row_nothing_is_claimed_of_anybody() -> None:
    (part,) = verdict_of(pairs(0, 0, 0), "growth").slices
    assert (part.rows, part.champion_agreement, part.challenger_agreement, part.difference) == (0, 0.0, 0.0, 0.0)
    assert (part.lower, part.upper) == (-1.0, 1.0)


def test_the_anchor_binds_in_strict_alone() -> None:
    anchor = pairs(1800, 10, 100)
    expected: dict[Phase, str] = {"growth": "pass", "strict": "fail"}
    for phase, outcome in expected.items():
        verdict = judge(
            pairs(1900, 20, 20), certified=True, champion_certified=True, limits=LIMITS, phase=phase, anchor=anchor
        )
        assert verdict.outcome == outcome


@pytest.mark.parametrize(
    ("new", "old", "gain", "outcome"), [(6, 6, 0.0, "pass"), (6, 6, 0.01, "inconclusive"), (30, 6, 0.9, "pass")]
)
def test_held_out_escalations_are_superior_or_gain_enough(new: int, old: int, gain: float, outcome: str) -> None:
    verdict = verdict_of(pairs(1900, new, old, hard=60), "strict", limits=replace(LIMITS, hard_gain=gain))
    assert verdict.outcome == outcome


def test_doubt_is_told_with_how_far_agreement_may_have_fallen() -> None:
    verdict = verdict_of(pairs(185, 8, 8), "strict")
    assert verdict.lower is not None
    assert f"may have fallen by {-verdict.lower:.4f}, 0.02 allowed" in verdict.refusals[0]
    harmed = verdict_of(pairs(10, 1, 60, 29), "strict")
    assert harmed.upper is not None
    assert f"fell by at least {-harmed.upper:.4f} (" in harmed.refusals[0]


def test_where_the_champion_is_not_certified_either_nothing_is_said_of_it() -> None:
    verdict = verdict_of(pairs(900, 60, 5), "growth", certified=False, champion_certified=False)
    assert verdict.refusals == ["no threshold could be certified: the student may not answer on its own"]
    assert verdict.rows_needed == 0  # nobody has said how many a threshold takes


def test_rows_needed_follow_the_discordance_that_was_seen_and_the_weights() -> None:
    def missing(scores: PairedScores) -> int:
        verdict = verdict_of(scores, "strict")
        assert verdict.outcome == "inconclusive"
        return verdict.rows_needed

    few = pairs(40, 2, 2, 55)  # 99 rows: too few to estimate from
    assert missing(few) == rows_needed(0.02, 0.05)
    enough = pairs(40, 2, 2, 56)
    assert missing(enough) == rows_needed(0.02, 0.05, discordance=0.04)
    weights = np.where(np.arange(100) < 50, 1.0, 5.0)
    spread = 100 / (weights.sum() ** 2 / (weights**2).sum())
    expected = rows_needed(0.02, 0.05, discordance=0.04)
    heavy = replace(enough, weights=weights)
    assert missing(heavy) == pytest.approx(expected * spread, abs=1)
    same = replace(pairs(100, 0, 0), weights=weights)
    assert missing(same) == pytest.approx(rows_needed(0.02, 0.05, discordance=0.01) * spread, abs=1)
    assert missing(pairs(10, 0, 0)) == rows_needed(0.02, 0.05)
    assert missing(pairs(0, 0, 0)) == rows_needed(0.02, 0.05)
    wide = replace(LIMITS, delta=0.3)
    assert verdict_of(pairs(40, 0, 0), "strict", limits=wide).rows_needed == wide.min_rows


def test_a_growth_lane_that_is_certified_lacks_no_rows() -> None:
    waiting = judge(
        pairs(30, 2, 2), certified=False, champion_certified=False, limits=LIMITS, phase="growth", certify_rows=7
    )
    assert waiting.rows_needed == 7
    assert verdict_of(pairs(30, 2, 2), "growth").rows_needed == 0


def test_equal_weights_of_any_size_are_judged_by_counts_and_others_by_drawing() -> None:
    even = verdict_of(pairs(400, 20, 20, weights=np.full(440, 3.0)), "growth")
    assert (even.lower, even.upper) == tango(400, 20, 20, 0, 2 * LIMITS.alpha)
    uneven = pairs(400, 20, 20, weights=np.where(np.arange(440) % 2 == 0, 1.0, 2.0))
    drawn = verdict_of(uneven, "growth")
    assert uneven.champion is not None
    differences = uneven.challenger.astype(np.float64) - uneven.champion
    assert (drawn.lower, drawn.upper) == bca(differences, uneven.weights, uneven.clusters, 0.1, seed=LIMITS.seed)


@pytest.mark.parametrize("torn", ["champion", "challenger", "both"])
def test_a_row_that_a_teacher_answered_in_two_ways_is_judged_by_drawing(torn: str) -> None:
    plain = pairs(400, 20, 20)
    assert plain.champion is not None
    halves = np.where(np.arange(440) < 5, 0.5, 1.0)
    old = plain.champion * (halves if torn != "challenger" else 1.0)
    new = plain.challenger * (halves if torn != "champion" else 1.0)
    drawn = verdict_of(replace(plain, champion=old, challenger=new), "growth")
    assert (drawn.lower, drawn.upper) == bca(new - old, plain.weights, plain.clusters, 0.1, seed=LIMITS.seed)
