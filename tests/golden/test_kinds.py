"""Kinds that releases store from 0.2.0 on, read for what they mean; of an older installation they are not there."""

from pathlib import Path

import msgspec
import pytest
import redis

from ops.checks.letters import compare
from ops.letters.reading import list_letters
from ops.site import Site
from store.answers.census import Census, PromptCount
from store.answers.rules import Rules
from store.answers.rulings import in_force
from store.buffer.ledger import BEGINNING
from store.buffer.repair.letters import LetterBook
from store.buffer.repair.lists import LabelList, Lists, lists_of
from store.control import Control
from store.cycles.signs import Signs
from store.event import RankInput, TextInput
from store.letters.decisions import LetterDecision
from store.money.books import Books
from store.money.deeds import Deeds
from store.money.tally import Tally
from store.secrets import item_id
from store.tasks.classify import ClassifyRules
from store.tasks.rank import RankRules, heard
from tests.golden import aside, facts, scene
from tests.golden.events import LANE, LISTED_PROMPT, MODEL, PROMPT
from tests.golden.fixed import NOW_S, OWNER
from trainer.work import drawing_of

LABELS = ("delivery", "login", "refund")


@pytest.fixture
def known(golden: Path) -> facts.Facts:
    """What is known of the release."""
    return facts.of(golden)


def test_rulings_say_what_they_said(known: facts.Facts, site: Site, redis_client: redis.Redis) -> None:
    found = site.registry.rulings(LANE).read()
    rules = scene.work(site, redis_client, "head", champion=None, at_s=NOW_S).training.readings
    counting = {f"{MODEL}@{PROMPT}", f"{MODEL}@{LISTED_PROMPT}"}
    if known.first:
        assert found == []
        assert rules == Rules(prompts=frozenset(counting))
        return
    kinds = [ruling.kind for ruling in found]
    assert kinds == ["rename", "merge", "retire", "accept", "retire", "undo"]
    assert {(ruling.who, ruling.time_s) for ruling in found} == {("ada", NOW_S)}
    assert (found[0].labels, found[0].to, found[0].why) == (["parcel"], "delivery", "one name: Zażółć")
    sample = found[3].sample
    assert sample is not None
    assert (sample.asked, sample.agreed, sample.low, sample.high) == (20, 19, 0.75, 0.96875)
    assert (found[3].under, found[5].undoes) == (f"{MODEL}@{PROMPT}", 5)
    assert [ruling.number for ruling in in_force(found)] == [1, 2, 3, 4]
    assert rules.prompts == counting | {f"{MODEL}@{scene.ACCEPTED}"}
    assert rules.labels == {"parcel": "delivery", "chargeback": "refund", "money back": "refund", "weather": None}


def test_rulings_are_how_older_answers_are_read(known: facts.Facts, site: Site, redis_client: redis.Redis) -> None:
    cycle = scene.work(site, redis_client, "head", champion=None, at_s=NOW_S)
    drawing = drawing_of(cycle.training, cycle.settings, NOW_S)
    items = {item.item_id: item for item in site.buffer(redis_client).items(LANE)}
    key = site.secret.lane_key(LANE)
    said = ("the van never came", "you billed me two times", "the reset mail never came")
    texts = dict(zip(said, ("delivery", "refund", "login"), strict=True))
    found = {text: items.get(item_id(key, ClassifyRules(), TextInput(text=text))) for text in texts}
    if known.first:
        assert set(found.values()) == {None}
        return
    assert {text: dict(drawing.answers(item)) for text, item in found.items() if item} == {
        text: {label: 1} for text, label in texts.items()
    }


def test_lists_of_labels_were_noted_at_the_claims(known: facts.Facts, site: Site, redis_client: redis.Redis) -> None:
    held = Lists(redis_client).held(LANE.use_case)
    assert lists_of(held, LANE) == ([] if known.first else [LABELS])
    slots = set(site.buffer(redis_client).positions(LANE.use_case))
    assert {one.slot for one in held} == (set() if known.first else slots)
    earlier = ["parcel", "chargeback", "money back", "weather"]
    for one in held:
        assert (one.fence, one.position, one.at_s) == (1, BEGINNING, NOW_S)
        assert one.lists[str(LANE)] == LabelList(
            labels=list(LABELS), earlier=earlier, task="classify", training_permitted=True
        )


def test_items_of_rank_keep_the_newest_four_answers(known: facts.Facts, site: Site, redis_client: redis.Redis) -> None:
    items = list(site.buffer(redis_client).items(aside.SHOP))
    if known.first:
        assert items == []
        return
    often, once = sorted(items, key=lambda item: -item.count)
    assert (often.task, often.stratum, often.count, once.count) == ("rank", "all", 5, 1)
    assert often.input == RankInput(query="shoes", documents=["blue shoes,\n  any size", "hat", "red shoes"])
    assert [(said.scores, said.order) for said in heard(often.answers(f"{MODEL}@{PROMPT}"))] == [
        ((0.6875, 0.25, 0.75), None),
        ((0.625, 0.25, 0.75), None),
        (None, (0, 2)),
        ((0.5, 0.25, 0.75), None),
    ]
    assert often.first_opinion is not None
    assert often.first_opinion.opinion.output == "[2,0,1]"
    assert often.first_opinion.opinion.members == [[0.25, 0.125, 0.5]]
    rules = RankRules()
    assert once.item_id == item_id(site.secret.lane_key(aside.SHOP), rules, once.input)
    assert "jane" not in str(once.input)


def test_books_go_on(
    known: facts.Facts, site: Site, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_client, "time", lambda: (int(aside.BOOKS_S), 0))
    books, done = Books(redis_client), Deeds() if known.first else aside.DEEDS
    book = books.read(LANE)
    assert (book.ever, book.today, book.month) == (done, done, done)
    assert book.since_s == (None if known.first else aside.BOOKS_S)

    def no_name() -> str:
        assert known.first
        return "replica-2"

    tally = Tally(no_name, site.run_directory / "tally-acme.support.json")
    assert tally.pending is not known.first
    for _ in range(2):
        tally.flush(books.write, LANE)
        assert books.read(LANE).ever == (done if known.first else done + aside.UNWRITTEN + aside.UNWRITTEN)
    if not known.first:
        assert book.ever.calls_nano_usd == 7_750_000
        assert not (site.run_directory / "tally-acme.support.json").exists()


def test_letters_that_were_dealt_with(known: facts.Facts, site: Site, redis_client: redis.Redis) -> None:
    report = list_letters(site, [LANE.use_case], 10)
    states = {letter.reason: letter.state for letter in report.letters}
    settled = "open" if known.first else "dropped"
    assert states == {"undecodable": settled, "unknown_schema": "open", "unknown_lane": "open"}
    still_open = site.buffer(redis_client).open_dead(LANE.use_case)
    assert still_open == {"undecodable": int(known.first), "unknown_lane": 1, "unknown_schema": 1}
    book = LetterBook(redis_client)
    again = LetterDecision(outcome="replayed", who="bob", why="again", at_s=NOW_S + 60)
    if not known.first:
        (dropped,) = book.decisions(LANE.use_case).values()
        expected = LetterDecision(outcome="dropped", who="operator", why="a test producer", at_s=NOW_S, number=1)
        assert dropped == expected
        (replayed,) = book.decisions("returns").values()
        assert (replayed.outcome, replayed.why) == ("replayed", "labels added")
    assert book.begin("returns", "a" * 12, again) is known.first
    assert book.begin("returns", "b" * 12, again) is known.first  # its replay may be under way
    later = msgspec.structs.replace(again, at_s=NOW_S + 200)
    assert book.begin("returns", "b" * 12, later)


def test_a_decision_of_before_they_were_signed_holds_and_is_signed_for(
    known: facts.Facts, site: Site, redis_client: redis.Redis
) -> None:
    deciding = site.deciding(redis_client, "returns")
    book, chain = deciding.book, deciding.chain
    noted = [] if known.first else ["a" * 12]
    before = compare("returns", book.notes("returns"), chain.read(), now_s=NOW_S)
    assert (before.problems, before.unsigned) == ([], len(noted))
    deciding.settle("drop", dict.fromkeys(["a" * 12, "c" * 12], "off_list"), {}, why="the next one")
    assert [(one.kind, list(one.notes)) for one in chain.read()] == [("adopt", noted)] * (not known.first) + [
        ("drop", [])
    ]
    outcomes = {letter: decision.outcome for letter, decision in book.decisions("returns").items()}
    assert outcomes == {"a" * 12: "dropped" if known.first else "replayed", "c" * 12: "dropped"}
    after = compare("returns", book.notes("returns"), chain.read(), now_s=NOW_S + 1e9)
    assert (after.problems, after.unsigned) == ([], 0)


def test_signs_and_a_count(known: facts.Facts, site: Site, redis_client: redis.Redis) -> None:
    signs, census = Signs(redis_client), Control(redis_client).census(aside.RETURNS)
    assert len(list(site.buffer(redis_client).items(LANE))) == known.items  # the installation is there
    sign = signs.of(aside.RETURNS)
    assert signs.importing(aside.RETURNS) is not known.first
    if known.first:
        assert (sign, census) == (None, None)
        return
    assert sign is not None
    assert sign.cycle is not None
    assert (sign.owner, sign.at_s, sign.busy_with) == (OWNER, NOW_S, "acme/returns")
    cycle = sign.cycle
    assert (cycle.id, cycle.kind, cycle.at_s, cycle.request) == ("golden-3", "fine_tune", NOW_S, "waited-for")
    assert (cycle.stage, cycle.number, cycle.stages, cycle.done_ratio) == ("fine_tuning", 4, 7, 0.25)
    assert (cycle.elapsed_s, cycle.left_s, cycle.left_by) == (30.5, 91.5, "steps")
    counted = msgspec.json.decode(census or b"", type=Census)
    assert (counted.at_s, counted.reading, counted.labels) == (NOW_S, "gpt@0+1", {"login": {"fresh": 1}})
    assert counted.prompts == {"gpt@0": PromptCount(items=1, counts=True, first_s=NOW_S - 9, last_s=NOW_S, alone=0)}
    assert (counted.took_s, counted.counted, counted.items, counted.quarantine_s) == (0.5, 2, 1, 60.0)


def test_facts_are_told_of_every_release(golden: Path) -> None:
    """A release is added here when its folder is."""
    assert facts.of(golden).records >= facts.of(golden).items
