"""The certified threshold against a naive statement of the procedure, and what a policy says of itself."""

import math
from typing import Final

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from store.policy import Policy
from tests.trainer.labelled import policy_of as calibrated
from trainer.judge.calibrate import certify
from trainer.judge.intervals import clopper_pearson_lower
from trainer.learn.classify.temper import UNKNOWN_LABEL

NOVEL: Final = 9.0
Question = tuple[int, bool, bool]  # how sure the student is, whether it agrees, whether it is novel


def policy_of(questions: list[Question], target: float, alpha: float) -> Policy:
    """Calibrate on questions of weight 1, whose novelty limit lets through all but the novel ones."""
    sure = np.array([0.5 + level / 256 for level, _, _ in questions])
    labels = np.array([UNKNOWN_LABEL if novel else 0 if agrees else 1 for _, agrees, novel in questions], np.int64)
    return calibrated(
        np.stack([sure, 1 - sure], axis=1),
        labels,
        np.ones(len(questions)),
        np.array([NOVEL if novel else 0.1 for _, _, novel in questions]),
        target=target,
        confidence=1 - alpha,
        seed=0,
        temperature=1.0,
    )


def reference(questions: list[Question], target: float, alpha: float) -> tuple[float, int, int, float] | None:
    """(threshold, rows, agreements, error), slowly and from the words of the module alone."""
    rows = len(questions)
    answerable = sorted((level for level, _, novel in questions if not novel), reverse=True)

    def at_or_above(level: int) -> list[bool]:
        return [agrees for own, agrees, novel in questions if own >= level and not novel]

    def unlikely(agreements: int, among: int, share: float) -> bool:
        """Whether so many agreements would be that rare at the target."""
        return bool(stats.binom.sf(agreements - 1, among, target) <= share)

    tried = {answerable[min(math.ceil(rows * i / 20), len(answerable)) - 1] for i in range(1, 21) if answerable}
    strict_to_lenient = sorted(tried, reverse=True)
    counts = {level: len(at_or_above(level)) for level in strict_to_lenient}
    given_error: dict[int, float] = {}
    for shares in ((0.15, 0.3, 0.5), (0.3, 0.5), (0.5,)):
        places = [
            next((level for level in strict_to_lenient if counts[level] >= rows * share), None) for share in shares
        ]
        each = alpha / len(shares)
        if all(place is not None and unlikely(counts[place] - 3, counts[place], each) for place in places):
            for place in places:
                assert place is not None
                given_error[place] = given_error.get(place, 0.0) + each
            break
    else:
        confident = [level for level in strict_to_lenient if counts[level] <= 0.6 * rows]
        wanted = [(errors, level) for errors in (3, 2, 1, 0) for level in confident]
        wanted += [(0, level) for level in strict_to_lenient]
        fits = (level for errors, level in wanted if unlikely(counts[level] - errors, counts[level], alpha))
        if (single := next(fits, None)) is not None:
            given_error[single] = alpha
    found, error = None, 0.0
    for level in strict_to_lenient:
        error += given_error.get(level, 0.0)
        agreements = sum(at_or_above(level))
        if error and unlikely(agreements, counts[level], error):
            found = (0.5 + level / 256, counts[level], agreements, error)
        else:
            error = 0.0
    return found


QUESTIONS: Final = st.tuples(
    st.integers(0, 120),
    st.sampled_from([True] * 24 + [False]),
    st.sampled_from([False] * 15 + [True]),
)


@settings(max_examples=150, deadline=None)
@given(
    levels=st.integers(1, 121),
    drawn=st.lists(QUESTIONS, min_size=1, max_size=150),
    repeated=st.integers(1, 3),
    target=st.sampled_from([0.6, 0.7, 0.8, 0.9]),
    alpha=st.sampled_from([0.05, 0.1, 0.2]),
)
def test_the_threshold_is_the_one_that_the_procedure_finds_slowly(
    levels: int, drawn: list[Question], repeated: int, target: float, alpha: float
) -> None:
    questions = [(level % levels, agrees, novel) for level, agrees, novel in drawn] * repeated
    assume(not all(novel for _, _, novel in questions))  # where no label is known, nothing counts as novel
    policy, expected = policy_of(questions, target, alpha), reference(questions, target, alpha)
    if expected is None:
        assert (policy.threshold, policy.rows, policy.lower, policy.coverage_ratio) == (None, 0, 0.0, 0.0)
        return
    threshold, rows, agreements, error = expected
    assert policy.threshold == pytest.approx(threshold, abs=1e-6)
    assert policy.rows == rows
    assert policy.coverage_ratio == pytest.approx(rows / len(questions))
    assert policy.lower == pytest.approx(stats.beta.ppf(error, agreements, rows - agreements + 1))
    assert policy.lower >= target - 1e-9


def falling(rows: int, wrong: list[int]) -> list[Question]:
    """Questions of falling confidence, one of them certain for every place that the scale has."""
    return [(120 - place * 120 // rows, place not in wrong, False) for place in range(rows)]


@pytest.mark.parametrize(
    ("rows", "wrong", "certified"),
    [
        (110, [0, 1], 110),  # and three fifths of 110 have room for two
        (80, [0], 80),  # three fifths of 80 are 48 rows, which have room for an error
        (28, [], 0),  # .9^28 > .05
        (29, [], 29),
        (40, [], 40),
        (60, [59], 60),
        (60, [0], 0),  # too few rows for a start with room for an error
        (200, [0, 1, 2, 3], 200),  # a strict start fails, and the others do not depend on it
        (200, list(range(30)), 0),
        (200, list(range(170, 200)), 180),
    ],
)
def test_how_many_rows_of_falling_confidence_are_certified_at_nine_in_ten(
    rows: int, wrong: list[int], certified: int
) -> None:
    questions = falling(rows, wrong)
    found = reference(questions, 0.9, 0.05)
    assert (found[1] if found else 0) == certified
    assert policy_of(questions, 0.9, 0.05).rows == certified


def test_a_start_lies_at_its_share_of_the_rows_and_not_beyond() -> None:
    questions = falling(160, list(range(24, 160)))  # 24 are 15 %, and what follows is all wrong
    assert reference(questions, 0.6, 0.05) is not None
    assert policy_of(questions, 0.6, 0.05).rows == 24


def test_the_lower_bound_is_at_the_share_of_the_error_that_the_threshold_was_certified_with() -> None:
    questions = falling(800, list(range(20)))  # the starts at 120 and 240 rows fail, the one at 400 does not
    found = reference(questions, 0.9, 0.05)
    assert found is not None
    assert found[3] == pytest.approx(0.05 / 3)
    policy = policy_of(questions, 0.9, 0.05)
    assert policy.rows == found[1] == 800
    assert policy.lower == pytest.approx(stats.beta.ppf(0.05 / 3, 780, 21))


def test_starts_that_fall_on_one_threshold_have_their_shares_together() -> None:
    questions = [(100 if place < 240 else 50, True, False) for place in range(400)]
    found = reference(questions, 0.9, 0.05)
    assert found is not None
    assert found[3] == pytest.approx(0.05)
    assert policy_of(questions, 0.9, 0.05).lower == pytest.approx(stats.beta.ppf(0.05, 400, 1))


@pytest.mark.parametrize(("usual", "novel"), [(100, 150), (100, 700), (30, 400)])
def test_where_most_questions_are_novel_the_others_can_be_certified(usual: int, novel: int) -> None:
    questions = [*falling(usual, []), *((60, True, True) for _ in range(novel))]
    found = reference(questions, 0.9, 0.05)
    assert policy_of(questions, 0.9, 0.05).rows == (found[1] if found else 0) == usual


def test_without_rows_the_policy_answers_nothing_and_still_says_what_it_was_to_promise() -> None:
    none = np.empty(0)
    policy = calibrated(np.empty((0, 2)), none.astype(int), none, none, target=0.9, confidence=0.8, seed=0)
    assert policy == Policy(
        temperature=1.0,
        threshold=None,
        novelty_threshold=None,
        target=0.9,
        confidence_level=0.8,
        coverage_ratio=0.0,
        rows=0,
        lower=0.0,
    )


def test_a_policy_that_is_not_certified_keeps_its_temperature_and_its_novelty_limit() -> None:
    probs = np.tile([0.8, 0.2], (10, 1))
    found = calibrated(
        probs, np.zeros(10, int), np.ones(10), np.full(10, 0.3), target=0.9, confidence=0.8, seed=0, temperature=2.0
    )
    assert found == Policy(
        temperature=2.0,
        threshold=None,
        novelty_threshold=0.3,
        target=0.9,
        confidence_level=0.8,
        coverage_ratio=0.0,
        rows=0,
        lower=0.0,
    )


def test_a_temperature_that_is_given_is_the_one_that_makes_the_threshold() -> None:
    probs = np.tile([0.8, 0.2], (50, 1))
    found = calibrated(
        probs, np.zeros(50, int), np.ones(50), np.zeros(50), target=0.9, confidence=0.95, seed=0, temperature=2.0
    )
    assert (found.temperature, found.target, found.confidence_level) == (2.0, 0.9, 0.95)
    assert found.threshold == pytest.approx(2.0 / 3.0)  # odds of 4 at temperature 2 are odds of 2


def test_a_threshold_does_not_tell_apart_what_is_served_alike() -> None:
    """Served in float32: rows that differ by less are ties, and the threshold is one of those numbers."""
    sure = 0.9 + np.arange(60) * 1e-11
    found = calibrated(
        np.stack([sure, 1 - sure], axis=1),
        np.zeros(60, int),
        np.ones(60),
        np.zeros(60),
        target=0.9,
        confidence=0.95,
        seed=0,
        temperature=1.0,
    )
    assert (found.rows, found.threshold) == (60, float(np.float32(0.9)))


def test_a_row_is_kept_as_often_as_it_weighs_and_the_same_seed_keeps_the_same() -> None:
    weights = np.where(np.arange(4000) % 2 == 0, 1.0, 4.0)
    found = [
        calibrated(
            np.tile([0.9, 0.1], (4000, 1)),
            np.zeros(4000, int),
            weights,
            np.zeros(4000),
            target=0.9,
            confidence=0.95,
            seed=seed,
        )
        for seed in (1, 1, 2)
    ]
    assert found[0] == found[1]
    assert found[0].rows != found[2].rows
    for policy in found:
        assert policy.rows == pytest.approx(2000 + 500, abs=5 * math.sqrt(2000 * 0.25 * 0.75))


def test_a_row_that_is_not_novel_is_answered_however_unsure_the_student_is() -> None:
    """A confidence is at least one in the number of labels, and none but the novel ones are below every threshold."""
    labels = 300
    found = calibrated(
        np.full((40, labels), 1 / labels),
        np.zeros(40, int),
        np.ones(40),
        np.zeros(40),
        target=0.9,
        confidence=0.95,
        seed=0,
        temperature=1.0,
    )
    assert found.rows == 40
    assert found.threshold == pytest.approx(1 / labels)


@pytest.mark.parametrize("seed", range(4))
def test_each_row_with_several_answers_is_a_trial_of_its_own(seed: int) -> None:
    rows = 400
    found = certify(
        np.linspace(0.9, 0.99, rows), np.full(rows, 0.96), np.ones(rows), target=0.9, confidence=0.9, seed=seed
    )
    assert found is not None
    assert found.lower < clopper_pearson_lower(found.rows, found.rows, 0.1)  # some of them were drawn against it
    assert found.lower >= 0.9
