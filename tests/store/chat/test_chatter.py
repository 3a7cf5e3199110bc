"""The chatting student: what it says, how sure it is, and a version of it from the trainer's hand to the gateway's."""

import dataclasses
import json
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec import structs

from store.errors import CorruptVersionError
from store.event import ChatInput, Message, TextInput
from store.registry.manifest import Manifest
from store.registry.sealed import OpenVersion
from store.registry.students.records import ChatRecord
from store.registry.versions import Versions
from store.student.chat.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Trained
from store.student.chat.chatter import Chatter, asked_of
from store.student.chat.decoder import Decoder, outline
from store.student.chat.generate import Asked, Generation, generate
from store.student.chat.neighbours import text_key
from store.student.chat.trust import CONFIDENCE_NAME, NEIGHBOURS_NAME, SIGNALS, Trust
from store.student.chat.version import Words
from store.student.loaded import ChatOpinion, Grows
from store.student.tasks import load
from tests.store.chat.versions import KNOWN, a_chat, make_chatter, with_record, write_version
from tests.store.drafts import make_versions

TEXTS = ("my parcel is late", "is it not", "password ?", "please help")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("student")


@pytest.fixture(scope="module")
def chatter(folder: Path) -> Chatter:
    return make_chatter(folder)


@pytest.fixture(scope="module")
def draft(folder: Path, chatter: Chatter, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    written = tmp_path_factory.mktemp("draft")
    return written, write_version(chatter, folder, written)


@pytest.fixture
def versions(tmp_path: Path) -> tuple[Versions, Any]:
    return make_versions(tmp_path)


def answered(chatter: Chatter) -> list[ChatInput]:
    """Conversations to which it says something whole."""
    asked = [a_chat(f"{text} {number}") for number in range(5) for text in TEXTS]
    said = chatter.look(asked)
    return [value for value, one in zip(asked, said, strict=True) if one.finish_reason == "stop" and one.output]


def test_an_opinion_is_the_greedy_answer_with_the_signals_of_its_confidence(chatter: Chatter) -> None:
    inputs = [a_chat(text) for text in TEXTS]
    rows = [chatter.decoder.template.render(json.loads(_json(value))) for value in inputs]
    wanted = generate(chatter.decoder, [Asked(row, 10) for row in rows])
    for said, one, row, text in zip(chatter.look(inputs), wanted, rows, TEXTS, strict=True):
        assert (said.output, said.tokens, said.finish_reason) == (one.text, one.ids, one.finish_reason)
        assert said.logprobs == pytest.approx(one.logprobs, abs=1e-4)
        assert said.prompt_tokens == len(row)
        signals = dict(zip(SIGNALS, said.members[0], strict=True))
        assert signals["sum_logprob"] == pytest.approx(sum(one.logprobs), abs=1e-3)
        assert signals["least_prob"] == pytest.approx(np.exp(min(one.logprobs)), abs=1e-3)
        assert said.novelty == signals["novelty"]
        assert (said.novelty < 1e-6) == (text in KNOWN)
        assert said.uncertainty == 1.0 - said.confidence


def _json(value: ChatInput) -> bytes:
    return json.dumps([{"role": one.role, "content": one.content} for one in value.messages]).encode()


def test_an_answer_that_was_cut_short_is_never_trusted(chatter: Chatter) -> None:
    values = answered(chatter)
    whole = chatter.look(values)
    assert all(0.0 < one.confidence < 1.0 for one in whole)
    cut = chatter.look([structs.replace(value, shape={"max_tokens": 1}) for value in values])
    assert {one.finish_reason for one in cut} == {"length"}
    assert {one.confidence for one in cut} == {0.0}


def test_neighbours_that_were_answered_alike_make_it_surer(chatter: Chatter) -> None:
    value = answered(chatter)[0]
    (said,) = chatter.look([value])
    assert said.members[0][2] == 0.0
    same = dataclasses.replace(chatter.neighbours, answers=[text_key(said.output)] * len(KNOWN))
    (surer,) = dataclasses.replace(chatter, neighbours=same).look([value])
    assert surer.members[0][2] == 1.0
    assert surer.confidence > said.confidence


def test_who_asks_beside_it_changes_an_opinion_by_rounding_alone(chatter: Chatter) -> None:
    inputs = [a_chat(text) for text in TEXTS]
    together = chatter.look(inputs)
    for one, value in zip(together, inputs, strict=True):
        (alone,) = chatter.look([value])
        assert (alone.output, alone.tokens) == (one.output, one.tokens)
        assert alone.confidence == pytest.approx(one.confidence, abs=1e-4)


@pytest.mark.parametrize(
    "value",
    [
        a_chat("my " * 60),
        a_chat("hello", tools=[{"type": "function", "function": {"name": "f"}}]),
        a_chat("hello", n=2),
        a_chat("hello", max_tokens=0),
    ],
    ids=["too long", "tools", "several answers", "no room"],
)
def test_what_it_cannot_answer_it_leaves_to_the_teacher(chatter: Chatter, value: ChatInput) -> None:
    assert chatter.too_long(value)
    assert chatter.tokens(value) == 1
    good = a_chat("hello")
    said = chatter.look([good, value, good])
    assert (said[1].confidence, said[1].output, said[1].tokens) == (0.0, "", [])
    assert said[0].output == said[2].output == chatter.look([good])[0].output
    assert not chatter.too_long(good)
    assert chatter.tokens(good) == said[0].prompt_tokens


def test_a_conversation_that_its_template_refuses_goes_to_the_teacher(chatter: Chatter) -> None:
    template = chatter.decoder.template._tokenizer
    before = template.chat_template
    template.chat_template = "{% if messages[0]['content'] == 'hello' %}{{ raise_exception('no') }}{% endif %}a"
    try:
        assert chatter.too_long(ChatInput(messages=[Message(role="user", content="hello")]))
        assert not chatter.too_long(ChatInput(messages=[Message(role="user", content="good day")]))
    finally:
        template.chat_template = before


def test_clients_limits_hold(chatter: Chatter) -> None:
    value = answered(chatter)[0]
    (whole,) = chatter.look([value])
    (stopped,) = chatter.look([structs.replace(value, shape={"stop": whole.output[0]})])
    assert (stopped.output, stopped.finish_reason) == ("", "stop")
    for name in ("max_tokens", "max_completion_tokens"):
        (short,) = chatter.look([structs.replace(value, shape={name: 1})])
        assert len(short.tokens) == 1


def test_answers_that_grow_together_are_what_a_look_gives(chatter: Chatter) -> None:
    assert isinstance(chatter, Grows)
    growing, inputs = chatter.growing(), [a_chat(text) for text in (*TEXTS, "again", "and again")]
    wanted = chatter.look(inputs)
    names: dict[Hashable, int] = dict(zip(growing.add(inputs[:2]), range(2), strict=True))
    (stranger,) = growing.add([a_chat("nobody waits for this one")])
    found: dict[int, ChatOpinion] = {}
    for place in range(2, len(inputs)):
        names |= zip(growing.add([inputs[place]]), [place], strict=True)
        if place == 2:
            growing.drop(stranger)
            growing.drop(stranger)
        found |= {names[name]: said for name, said in growing.step() if name in names}
    while len(growing):
        found |= {names[name]: said for name, said in growing.step() if name in names}
    assert [found[place].output for place in range(len(inputs))] == [one.output for one in wanted]
    assert [found[place].confidence for place in range(len(inputs))] == pytest.approx(
        [one.confidence for one in wanted], abs=1e-4
    )
    assert growing.step() == []
    with pytest.raises(ValueError, match="cannot read"):
        growing.add([a_chat("my " * 60)])


@pytest.mark.parametrize("trained", ["adapter", "full"])
def test_a_version_comes_back_as_it_was_fitted(trained: str, tmp_path: Path, versions: tuple[Versions, Any]) -> None:
    fitted = make_chatter(tmp_path / "made", full=trained == "full")
    manifest = write_version(fitted, tmp_path / "made", tmp_path / "draft")
    registry, key = versions
    opened = registry.open(registry.publish(tmp_path / "draft", manifest, key))
    found = load(opened, device="cpu", precision="fp32")
    assert isinstance(found, Chatter)
    assert found.check_golden() <= 1e-4 < found.golden_tolerance
    inputs = [a_chat(text) for text in TEXTS]
    for before, after in zip(fitted.look(inputs), found.look(inputs), strict=True):
        assert after.output == before.output
        assert after.confidence == pytest.approx(before.confidence, abs=1e-2)  # vectors are kept in half precision
    assert found.served_parameters == manifest.served_parameters
    assert found.base_fingerprint == fitted.base_fingerprint
    found.check_follows(fitted, removal_declared=False)


def test_two_versions_on_one_base_hold_it_once(
    draft: tuple[Path, Manifest], folder: Path, versions: tuple[Versions, Any]
) -> None:
    registry, key = versions
    opened = registry.open(registry.publish(*draft, key))
    one, other = (Chatter.load(opened, device="cpu", precision="fp32") for _ in range(2))
    pairs = zip(one.decoder.model.named_parameters(), other.decoder.model.parameters(), strict=True)
    own = {name for (name, value), twin in pairs if value.data_ptr() != twin.data_ptr()}
    assert own == {
        name.removeprefix("base_model.model.").replace(".lora_A", "") for name in one.trained.tensors if "A" in name
    }


@pytest.mark.parametrize("name", [ADAPTER_WEIGHTS, ADAPTER_CONFIG, CONFIDENCE_NAME, "base/model.safetensors"])
def test_a_flipped_bit_in_a_version_is_found(
    draft: tuple[Path, Manifest], versions: tuple[Versions, Any], name: str
) -> None:
    registry, key = versions
    version = registry.publish(*draft, key)
    path = registry.open(version).path(name)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    with pytest.raises(CorruptVersionError, match="manifest"):
        registry.open(version)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"layers": 1}, "layers"),
        ({"rank": 8}, "r 4"),
        ({"rank": None}, r"tuned\.safetensors"),
        ({"tokenizer": "0" * 64}, "tokenizer"),
        ({"template": "0" * 64}, "template"),
        ({"signals": ["novelty"]}, "follows from"),
        ({"neighbours": 4}, "training prompts"),
        ({"golden": []}, "golden"),
        ({"max_answer_tokens": 0}, "room"),
        ({"max_prompt_tokens": 256}, "room"),
        ({"deciding_tokens": 3}, r"openings\.json"),
    ],
)
def test_a_record_that_does_not_fit_its_files_is_refused(
    draft: tuple[Path, Manifest], versions: tuple[Versions, Any], changes: dict[str, Any], why: str
) -> None:
    registry, key = versions
    opened = registry.open(registry.publish(draft[0], with_record(draft[1], **changes), key))
    with pytest.raises(CorruptVersionError, match=why):
        Chatter.load(opened, device="cpu", precision="fp32")


class Spoiled:
    """A verified version with one file put in its place by hand."""

    def __init__(self, opened: OpenVersion, name: str, data: bytes) -> None:
        self.manifest = opened.manifest
        self._opened, self._name, self._data = opened, name, data

    def read(self, name: str) -> bytes:
        return self._data if name == self._name else self._opened.read(name)

    def path(self, name: str) -> Path:
        return self._opened.path(name)


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        (NEIGHBOURS_NAME, b"[1]", "list of answers"),
        (NEIGHBOURS_NAME, b'["a"]', "training prompts"),
        (CONFIDENCE_NAME, b"", "safetensors"),
        ("base/tokenizer_config.json", b"{}", "chat template"),
    ],
)
def test_a_file_that_is_signed_and_wrong_is_refused(
    draft: tuple[Path, Manifest], versions: tuple[Versions, Any], name: str, data: bytes, why: str
) -> None:
    registry, key = versions
    opened = registry.open(registry.publish(*draft, key))
    with pytest.raises(CorruptVersionError, match=why):
        Chatter.load(Spoiled(opened, name, data), device="cpu", precision="fp32")


def test_another_tasks_record_and_input_are_refused(chatter: Chatter, draft: tuple[Path, Manifest]) -> None:
    with pytest.raises(TypeError, match="a TextInput"):
        chatter.look([TextInput(text="hello")])
    record = draft[1].student
    assert isinstance(record, ChatRecord)
    assert chatter.told(record).precision == "fp32"


def golden_of(chatter: Chatter, record: ChatRecord) -> Chatter:
    told = chatter.told(record)
    assert isinstance(told, ChatRecord)
    return dataclasses.replace(chatter, record=told)


def test_golden_answers_tell_another_students_numbers(chatter: Chatter, draft: tuple[Path, Manifest]) -> None:
    record = draft[1].student
    assert isinstance(record, ChatRecord)
    told = golden_of(chatter, record)
    assert told.check_golden() <= 1e-4
    moved = _moved(chatter.decoder, 1e-6)
    assert dataclasses.replace(told, decoder=moved).check_golden() < told.golden_tolerance
    other = _moved(chatter.decoder, 0.02)
    assert dataclasses.replace(told, decoder=other).check_golden() > told.golden_tolerance


def _moved(decoder: Decoder, by: float) -> Decoder:
    generator = torch.Generator().manual_seed(1)
    name = "model.layers.3.mlp.down_proj.weight"
    value = dict(decoder.model.named_parameters())[name]
    return decoder.twin({name: value + by * torch.randn(value.shape, generator=generator)})


def test_a_student_that_says_what_is_no_number_is_broken(chatter: Chatter, draft: tuple[Path, Manifest]) -> None:
    record = draft[1].student
    assert isinstance(record, ChatRecord)
    name = "model.layers.3.mlp.down_proj.weight"
    value = dict(chatter.decoder.model.named_parameters())[name]
    broken = dataclasses.replace(golden_of(chatter, record), decoder=chatter.decoder.twin({name: value * float("nan")}))
    assert broken.check_golden() == float("inf")
    with pytest.raises(ValueError, match="no number"):
        broken.look([a_chat("hello")])


def test_its_policy_changes_nothing_else(chatter: Chatter) -> None:
    other = chatter.with_policy(None)
    assert other.policy is None
    assert other.decoder is chatter.decoder


def test_nobody_asked_nothing_computed(chatter: Chatter) -> None:
    nobody: Sequence[ChatInput] = []
    assert chatter.look(nobody) == []
    assert chatter.growing().add(nobody) == []


def test_a_version_is_read_and_judged_without_its_decoder(
    chatter: Chatter, draft: tuple[Path, Manifest], versions: tuple[Versions, Any]
) -> None:
    registry, key = versions
    opened = registry.open(registry.publish(*draft, key))
    record = opened.manifest.student
    assert isinstance(record, ChatRecord)
    words, value = Words.read(opened), answered(chatter)[0]
    asked = asked_of(words, value, chatter.terms)
    assert asked == chatter.asked(value)
    assert asked is not None
    files = {name: opened.read(name) for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)}
    trained = Trained.read(files, outline(opened.read("base/config.json")), layers=record.layers, rank=record.rank)
    assert trained.tensors.keys() == chatter.trained.tensors.keys()
    trust = Trust.read(opened, record, device="cpu", precision="fp32")
    (said,) = chatter.look([value])
    elsewhere = Generation(asked, said.tokens, said.logprobs, said.output, said.finish_reason)
    (found,) = trust.opinions([elsewhere], trust.vectors([value]))
    assert found.confidence == pytest.approx(said.confidence, abs=1e-2)
