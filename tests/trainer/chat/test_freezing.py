"""How conversations become rows, what is learned of a teacher's answer, and what judges read of a student's."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from msgspec.structs import replace as changed

from store.answers.top_logprobs import NO_TOKEN, pack_top
from store.buffer.item import Item
from store.event import AgreementVerdict, ChatAnswer, ChatInput, StudentOpinion
from store.registry.students.records import ChatRecord
from store.student.chat.chatter import Chatter
from store.student.chat.decoder import Decoder
from store.student.chat.generate import Asked, Generation, generate
from store.student.encoder import Encoder, FloatArray
from store.student.rank.vectors import sentence_vectors
from store.tasks.chat import ChatSaid, form_of
from tests.tiny import tiny_encoder
from tests.trainer.chat.talks import MODEL, NOW_S, PROMPT, a_talk, calm_decoder, event_of, item_of, items
from tests.trainer.chat.test_cycle import QUICK, SETTINGS, TRAINING
from trainer.attempt import freeze_rows
from trainer.learn.chat import steps
from trainer.learn.chat.freezing import FrozenChats, chat_input, heard_of
from trainer.learn.chat.head import constant
from trainer.learn.chat.recipe import RECIPE, frozen_chats
from trainer.learn.chat.training.layers import TopLayers
from trainer.learn.chat.training.losses import ABSENT
from trainer.learn.features import BaseEncoder
from trainer.learn.recipe import Lineage
from trainer.snapshot import rows_of
from trainer.work import CycleSettings

COLD = Lineage(champion=None, anchor=None, history=[], records={})
TOKENIZER = "a" * 64


class Fresh:
    """Satisfies `trainer.learn.recipe.Features`: nothing is kept."""

    def features(self, encoder: Encoder, item_ids: Sequence[str], texts: Sequence[str]) -> FloatArray:
        return sentence_vectors(encoder, texts)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> CycleSettings:
    folder: Path = tmp_path_factory.mktemp("bases")
    return replace(
        SETTINGS, encoder=str(tiny_encoder(folder / "encoder", layers=1)), model=str(calm_decoder(folder / "decoder"))
    )


def frozen(settings: CycleSettings, kept: Sequence[Item]) -> FrozenChats:
    base = BaseEncoder.open(settings.encoder, device="cpu", precision="fp32", max_tokens=32)
    return frozen_chats(
        freeze_rows(
            kept,
            COLD,
            training=TRAINING,
            settings=settings,
            base=base,
            features=Fresh(),
            now_s=NOW_S,
            positions={},
        )
    )


def said_with(
    ids: Sequence[Sequence[int]], logprobs: Sequence[Sequence[float]], tokenizer: str = TOKENIZER
) -> ChatSaid:
    return ChatSaid(text="x", top=pack_top(ids, logprobs, tokenizer=tokenizer))


def test_a_teachers_distribution_counts_only_where_its_tokens_are_the_students() -> None:
    answer = [7, 8, 0]  # with its end
    said = said_with([[7, 9], [8, NO_TOKEN]], [[-0.5, -1.5], [-0.25, -np.inf]])
    heard = heard_of(said, answer, tokenizer=TOKENIZER)
    assert heard.ids.tolist() == [[7, 9], [8, ABSENT], [0, ABSENT]]
    assert heard.logprobs.tolist() == [[-0.5, -1.5], [-0.25, -np.inf], [-np.inf, -np.inf]]  # the end: the text alone
    for other in (
        said_with([[7, 9], [8, 9]], [[-0.5, -1.5], [-0.25, -3]], tokenizer="b" * 64),  # as large, perhaps, but another
        said_with([[8, 9], [0, 9]], [[-0.5, -1.5], [-0.25, -3]]),  # a place too late
        said_with([[7, 9]] * 4, [[-0.5, -1.5]] * 4),
        ChatSaid(text="x"),
    ):
        plain = heard_of(other, answer, tokenizer=TOKENIZER)
        assert plain.ids[:, 0].tolist() == answer
        assert not torch.isfinite(plain.logprobs).any()


def test_rows_are_named_by_their_answers_and_linked_where_these_are_equal(settings: CycleSettings) -> None:
    rng = Random(2)
    value, _ = a_talk(rng)
    near = replace_user(value, value.messages[-1].content + " please")
    far = replace_user(value, value.messages[-1].content + " thanks")
    kept = [
        item_of(event_of(value, '{"t":"r", "n":1}', rng)),
        item_of(event_of(near, '{"n": 1.0,"t":"r"}', rng)),
        item_of(event_of(far, '{"t":"d"}', rng)),
    ]
    rows = {row.item_id: row for row in frozen(settings, kept).snapshot.rows}
    one, other, third = (rows[item.item_id] for item in kept)
    assert one.label == other.label != third.label
    assert one.cluster == other.cluster != third.cluster


def replace_user(value: ChatInput, text: str) -> ChatInput:
    return changed(value, messages=[value.messages[0], changed(value.messages[-1], content=text)])


def test_only_texts_are_learned_and_only_questions_for_one_are_asked(settings: CycleSettings) -> None:
    rng = Random(3)
    values = [a_talk(rng)[0] for _ in range(5)]
    call = ChatAnswer(model=MODEL, prompt_version=PROMPT, text="", tool_calls=[{"function": {"name": "f"}}])
    kept = [
        item_of(event_of(values[0], "fine", rng)),
        item_of(event_of(values[1], "", rng, answer=call)),
        item_of(event_of(values[2], " ", rng)),
        item_of(event_of(changed(values[3], shape={"tools": [{"type": "function"}]}), "fine", rng)),
        item_of(event_of(replace_user(values[4], "long " * 60), "fine", rng)),
    ]
    every = replace(settings, split=replace(settings.split, calibrate_ratio=0.0, judge_ratio=0.0))
    rows = frozen(every, kept)
    learned = {rows.snapshot.rows[place].item_id for place in steps.learned(rows)}
    assert learned == {kept[0].item_id}
    held = frozen(replace(settings, split=replace(settings.split, calibrate_ratio=0.0, judge_ratio=0.999)), kept)
    student = quick_student(held)
    scored = held.scored(student, range(len(kept)), np.ones(len(kept)))
    never = {row.item_id for row, sure in zip(held.snapshot.rows, scored.confidence, strict=True) if sure < 0}
    assert never == {kept[3].item_id, kept[4].item_id}


def quick_student(rows: FrozenChats) -> Chatter:
    """One that has learned nothing yet."""
    stack = rows.base.decoder.stack
    trained = TopLayers(stack, first=1, rank=2, alpha=4, start=None, seed=0).trained()
    return steps.student_of(rows, trained, [], constant(0.5, 4), early=None)


def test_an_answer_that_one_pass_shows_to_be_the_teachers_is_what_generation_gives(
    settings: CycleSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "FEW", QUICK)
    rows = frozen(settings, items(120, hard=0.2))
    places = rows_of(rows.snapshot, "train")
    trained = steps.trained_on(rows, places, None)
    decoder = trained.on(rows.base.decoder)
    generated = list[int]()

    def counted(one: Decoder, asked: Sequence[Asked]) -> list[Generation]:
        generated.append(len(asked))
        return generate(one, asked)

    monkeypatch.setattr("trainer.learn.chat.freezing.generate", counted)
    every = range(len(rows.snapshot.rows))
    short = rows._answers(decoder, every)
    assert 0 < sum(generated) < len(every) / 2
    again = rows._answers(decoder, every)
    assert sum(generated) == generated[0]  # nothing is computed twice
    assert again == short
    whole = generate(decoder, [asked for asked in rows.asked if asked is not None])
    for place, one in enumerate(whole):
        assert (short[place].text, short[place].ids, short[place].finish_reason) == (
            one.text,
            one.ids,
            one.finish_reason,
        )
        assert short[place].logprobs == pytest.approx(one.logprobs, abs=1e-3)


def test_a_verdict_on_the_same_words_counts_and_on_others_not(settings: CycleSettings) -> None:
    rng = Random(5)
    value, _ = a_talk(rng)
    opinion = StudentOpinion(
        version="v", output="Gladly!", confidence=0.5, verdict=AgreementVerdict(agreed=True, by="judge")
    )
    rows = frozen(settings, [item_of(event_of(value, "With pleasure.", rng, student=opinion))])
    assert rows.agreed([(0, text) for text in ("Gladly!", "Gladly", "With  pleasure.")]) == [1.0, 0.0, 1.0]
    assert RECIPE.freezing(TRAINING, settings, None).conflicted({}) is False


def test_a_form_that_few_rows_ask_for_is_not_learned_and_nobody_is_asked_it(settings: CycleSettings) -> None:
    kept = items(40)
    forms = [{"type": "json_object"}] * 12 + [{"type": "json_schema", "json_schema": {"schema": {}}}] * 3
    for place, form in enumerate(forms):
        value = kept[place].input
        assert isinstance(value, ChatInput)
        kept[place] = changed(kept[place], input=changed(value, shape={"response_format": form}))
    every = replace(settings, split=replace(settings.split, calibrate_ratio=0.0, judge_ratio=0.0))
    rows = frozen(every, kept)
    places = range(len(rows.snapshot.rows))
    known = rows.forms(places, 5)
    assert known == [form_of({"response_format": forms[0]})]
    assert rows.forms(places, 13) == []
    student = quick_student(rows)
    record = ChatRecord(
        tokenizer="", template="", layers=1, rank=2, max_prompt_tokens=9, max_answer_tokens=9, signals=[], golden=[]
    )
    knowing = replace(student, record=changed(record, forms=known))
    said = rows.opinions(knowing, list(places))
    asked = [chat_input(row.input).shape.get("response_format") for row in rows.snapshot.rows]
    assert [one is None for one in said] == [form == forms[-1] for form in asked]
    assert rows.scored(knowing, list(places), np.ones(len(asked))).confidence.min() < 0
    assert None not in rows.opinions(replace(student, record=record), list(places)), "an older version is asked all"
