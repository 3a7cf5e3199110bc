"""Agreement of a challenger's texts in a cycle: who is asked, once, what a version keeps of it, and what without."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import msgspec
import pytest

from store.buffer.item import Item
from store.errors import CorruptVersionError
from store.event import AgreementVerdict
from store.registry.files.durable import append_line
from store.registry.manifest import VERDICTS_NAME
from store.registry.registry import Registry
from store.registry.sealed import OpenVersion
from store.registry.signing import TrustedKeys
from store.tasks.rules import Dispute
from tests.trainer.chat.talks import LANE, a_talk, event_of, item_of
from tests.trainer.chat.test_cycle import promoted, quick, work_in
from trainer.cycle import run_cycle
from trainer.daemon.ending import report_of
from trainer.judge.referee import VERDICTS_KEPT, Disputed, RefereeEntry, Verdicts
from trainer.work import CycleResult, CycleWork

__all__ = ["quick"]

VERDICT = AgreementVerdict(agreed=True, by="judge", model="big", calls=2, cost_usd=0.01)
WAYS = (str.lower, str.upper)


@dataclass
class Judge:
    """Two texts agree where their first letters do; it judges so many pairs, then the budget is spent."""

    pairs_left: int = 1_000_000
    calls: int = 0
    spent_usd: float = 0.0
    version: str = "big@1"
    distance_limit: float = 2.0
    asked: list[Dispute] = field(default_factory=list)

    def judge(self, pairs: Sequence[Disputed], said: Callable[[int, AgreementVerdict], None]) -> None:
        for place, one in enumerate(pairs[: self.pairs_left]):
            self.asked.append(one.dispute)
            agreed = one.dispute.teacher[:1].lower() == one.dispute.student[:1].lower()
            said(place, msgspec.structs.replace(VERDICT, agreed=agreed))
        self.pairs_left -= min(self.pairs_left, len(pairs))
        self.calls += 2 * len(pairs)
        self.spent_usd += 0.002 * len(pairs)


def opened(judge: Judge) -> Judge:
    """Where a cycle finds it."""
    return judge


def entry(judge: Judge) -> RefereeEntry:
    return RefereeEntry(entry="tests.trainer.chat.test_referee:opened", about=judge)


def a_pair(teacher: str, student: str, *, distance: float = 0.1, question: str = "q") -> Disputed:
    value, _ = a_talk(Random(question))
    return Disputed(question=value, parts=[question], dispute=Dispute(teacher, student), distance=distance)


def test_nobody_is_asked_twice_about_a_question_and_two_answers(tmp_path: Path) -> None:
    judge, pair = Judge(), a_pair("assuredly it is", "assuredly")
    verdicts = Verdicts(entry=entry(judge), folder=tmp_path)
    assert verdicts.of([pair, a_pair("no", "assuredly"), pair]) == [True, False, True]
    assert verdicts.of([pair]) == [True]
    assert len(judge.asked) == 2
    later = Verdicts(entry=entry(judge), folder=tmp_path)
    assert later.of([pair]) == [True]
    assert len(judge.asked) == 2
    assert later.of([a_pair("assuredly it is", "assuredly", question="another")]) == [True]
    assert len(judge.asked) == 3
    judge.version = "big@2"
    assert Verdicts(entry=entry(judge), folder=tmp_path).of([pair]) == [True]
    assert len(judge.asked) == 4


def test_a_line_that_was_torn_is_asked_again_and_the_others_are_not(tmp_path: Path) -> None:
    judge, pairs = Judge(), [a_pair("assuredly it is", "assuredly"), a_pair("no", "assuredly")]
    Verdicts(entry=entry(judge), folder=tmp_path).of(pairs)
    kept = tmp_path / VERDICTS_KEPT
    kept.write_bytes(kept.read_bytes()[:-5])
    assert Verdicts(entry=entry(judge), folder=tmp_path).of(pairs) == [True, False]
    assert Verdicts(entry=entry(judge), folder=tmp_path).of(pairs) == [True, False]
    assert len(judge.asked) == 3


def test_what_the_budget_leaves_is_unjudged_and_counted() -> None:
    judge = Judge(pairs_left=1)
    verdicts = Verdicts(entry=entry(judge))
    pairs = [a_pair("assuredly 1", "assuredly"), a_pair("assuredly 2", "assuredly"), a_pair("assuredly 3", "assuredly")]
    assert verdicts.of(pairs) == [True, None, None]
    assert verdicts.unjudged == 2
    judge.pairs_left = 10
    assert verdicts.of(pairs) == [True, None, None]  # one judge, one purse, one answer in a cycle
    assert verdicts.unjudged == 2


def test_who_learns_leaves_half_to_who_judges() -> None:
    verdicts = Verdicts(entry=entry(Judge(pairs_left=4)))
    assert verdicts.of([a_pair(f"assuredly {n}", "assuredly") for n in range(3)], half=True) == [True, True, None]
    assert verdicts.of([a_pair(f"perhaps {n}", "perhaps") for n in range(3)]) == [True, True, None]
    assert verdicts.unjudged == 2


def test_without_a_referee_texts_of_other_words_differ() -> None:
    verdicts = Verdicts()
    assert verdicts.of([a_pair("assuredly it is", "assuredly", distance=1.9)]) == [False]
    assert (verdicts.unjudged, verdicts.used) == (1, {})


def test_texts_that_are_far_apart_differ_and_nobody_is_asked() -> None:
    judge = Judge(distance_limit=0.5)
    verdicts = Verdicts(entry=entry(judge))
    assert verdicts.of([a_pair("assuredly", "assuredly!", distance=0.51)]) == [False]
    assert verdicts.of([a_pair("assuredly", "assuredly!!", distance=0.5)]) == [True]
    assert [one.by for one in verdicts.used.values()] == ["distance", "judge"]
    assert len(judge.asked) == 1


def test_what_a_version_was_judged_by_is_read_and_nobody_is_asked() -> None:
    judge = Judge()
    first = Verdicts(entry=entry(judge))
    pairs = [a_pair("assuredly it is", "assuredly"), a_pair("no", "assuredly")]
    first.of(pairs)
    again = Verdicts(entry=entry(judge))
    again.read(first.content)
    assert again.of(pairs) == [True, False]
    assert again.content == first.content
    assert len(judge.asked) == 2
    with pytest.raises(CorruptVersionError, match=r"verdicts\.json"):
        again.read(b'{"a": 1}')


def prose(count: int) -> list[Item]:
    """A help desk that writes the same answers in small letters or in capitals, by chance."""
    rng, found = Random(4), dict[str, Item]()
    while len(found) < count:
        value, answer = a_talk(rng)
        one = item_of(event_of(value, rng.choice(WAYS)(answer[6]), rng))
        found.setdefault(one.item_id, one)
    return list(found.values())


def cycle(folder: Path, judge: Judge | None) -> tuple[CycleWork, CycleResult]:
    work = work_in(folder)
    referee = None if judge is None else entry(judge)
    work = replace(work, training=replace(work.training, referee=referee))
    return work, run_cycle(work, prose(200), {})


def version_of(work: CycleWork, result: CycleResult) -> OpenVersion:
    assert result.version is not None, result.verdict
    return Registry(work.registry_root, TrustedKeys.load(work.trusted_keys)).versions(LANE).open(result.version)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Judge, CycleWork, CycleResult]:
    judge = Judge()
    return (judge, *cycle(tmp_path_factory.mktemp("judged"), judge))


def test_with_a_referee_other_words_agree_and_without_they_do_not_and_the_verdict_says_how_many(
    judged: tuple[Judge, CycleWork, CycleResult], tmp_path: Path
) -> None:
    _, _, result = judged
    work, unjudged = cycle(tmp_path, None)
    assert (result.verdict.unjudged, unjudged.verdict.unjudged > 20) == (0, True)
    assert (result.verdict.student_agreement or 0.0) > (unjudged.verdict.student_agreement or 0.0)
    assert result.asked > 0
    (cost, *_) = report_of(work, result, "pass", [], seconds=1.0).refusals
    assert cost == f"the referee was asked {result.asked} times, for ${result.asked_usd:.6g}"
    (note,) = report_of(work, unjudged, "inconclusive", [], seconds=1.0).refusals  # as status and history show it
    assert note.startswith(f"{unjudged.verdict.unjudged} pairs of texts were judged by nobody")
    assert VERDICTS_NAME not in version_of(work, unjudged).manifest.files


def test_with_a_budget_that_is_spent_a_cycle_still_comes_to_its_end_and_certifies_nothing(tmp_path: Path) -> None:
    work, result = cycle(tmp_path, Judge(pairs_left=0))
    assert result.verdict.unjudged > 20
    policy = version_of(work, result).manifest.policy
    assert policy is not None
    assert policy.threshold is None


def test_a_version_keeps_its_verdicts_and_who_judges_it_again_asks_nobody(
    judged: tuple[Judge, CycleWork, CycleResult], tmp_path: Path
) -> None:
    judge, work, result = judged
    before = len(judge.asked)
    content = version_of(work, result).read(VERDICTS_NAME)
    again = replace(work, cache=tmp_path / "cache", registry_root=tmp_path / "registry")
    kept = again.cache / LANE.tenant / LANE.use_case
    kept.mkdir(parents=True)
    for key, verdict in msgspec.json.decode(content).items():
        append_line(kept / VERDICTS_KEPT, msgspec.json.encode({"key": key, "verdict": verdict}))
    assert run_cycle(again, prose(200), {}).version == result.version  # to the byte
    assert len(judge.asked) == before


def test_the_next_cycle_reads_what_the_champion_was_judged_by(
    judged: tuple[Judge, CycleWork, CycleResult], tmp_path: Path
) -> None:
    judge, work, result = judged
    content = version_of(work, result).read(VERDICTS_NAME)
    before = Counter(judge.asked)
    run_cycle(replace(promoted(work, result), kind="head", cache=tmp_path), prose(220), {})
    new = Counter(judge.asked) - before
    assert sum(new.values()) < len(msgspec.json.decode(content))
