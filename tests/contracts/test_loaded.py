"""What every loaded student keeps, whatever its task; each test runs for all of them."""

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
import safetensors.torch
import torch

from store.errors import CorruptVersionError, SwapRefusedError
from store.event import ChatInput, Message, RankInput, TaskInput, TextInput
from store.policy import Policy
from store.registry.students.records import RankRecord, StudentRecord
from store.student.loaded import Loaded, RankOpinion
from store.student.rank.ranker import Ranker
from store.student.tasks import TASKS, load
from store.tasks.rank import Tolerance
from tests.contracts.loaded import MAKERS, Made
from tests.store.test_student import FakeVersion

NUMBERS = ("probs", "scores", "logprobs")  # of golden outputs


@pytest.fixture(scope="module", params=sorted(MAKERS))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return MAKERS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def student(made: Made) -> Loaded:
    return loaded(made.version)


def loaded(version: FakeVersion) -> Loaded:
    return load(version, device="cpu", precision="fp32")


def with_tensors(version: FakeVersion, name: str, tensors: dict[str, torch.Tensor]) -> FakeVersion:
    return version.with_file(name, safetensors.torch.save({key: value.contiguous() for key, value in tensors.items()}))


def with_golden(version: FakeVersion, golden: list[Any]) -> FakeVersion:
    student = msgspec.structs.replace(version.manifest.student, golden=golden)
    return replace(version, manifest=msgspec.structs.replace(version.manifest, student=student))


def numbers(golden: Any) -> list[float]:
    return next(getattr(golden, name) for name in NUMBERS if hasattr(golden, name))


def saying(golden: Any, numbers: list[float]) -> Any:
    name = next(name for name in NUMBERS if hasattr(golden, name))
    return msgspec.structs.replace(golden, **{name: numbers})


def test_every_task_that_is_loaded_has_a_contract() -> None:
    assert set(TASKS) <= set(MAKERS)


def test_there_is_one_opinion_an_input_in_their_order_and_company_changes_none(made: Made, student: Loaded) -> None:
    together = student.look(made.inputs)
    assert len(together) == len(made.inputs)
    for value, opinion in zip(made.inputs, together, strict=True):
        (alone,) = student.look([value])
        assert alone.output == opinion.output
        assert alone.confidence == pytest.approx(opinion.confidence, abs=1e-5)
        assert alone.novelty == pytest.approx(opinion.novelty, abs=1e-5)
        assert 0.0 <= opinion.confidence <= 1.0
        assert 0.0 <= opinion.uncertainty <= 1.0
        assert opinion.novelty >= 0.0
        assert len(opinion.members) == made.members
    assert student.look([]) == []


def test_another_tasks_input_is_refused(made: Made, student: Loaded) -> None:
    others: list[TaskInput] = [ChatInput(messages=[Message(role="user", content="hi")]), TextInput(text="hi")]
    other = next(one for one in others if type(one) is not type(made.inputs[0]))
    with pytest.raises(TypeError, match=type(other).__name__):
        student.look([other])


def test_golden_outputs_are_matched_and_a_deviation_is_seen(made: Made, student: Loaded) -> None:
    assert student.check_golden() <= min(1e-5, student.golden_tolerance)
    golden = made.version.manifest.student.golden
    turned = [saying(one, [*numbers(one)[1:], numbers(one)[0]]) for one in golden]
    assert loaded(with_golden(made.version, turned)).check_golden() > student.golden_tolerance
    broken = [saying(one, [float("nan")] * len(numbers(one))) for one in golden]
    assert not loaded(with_golden(made.version, broken)).check_golden() <= student.golden_tolerance


def test_golden_outputs_that_fit_nothing_are_refused(made: Made) -> None:
    golden = made.version.manifest.student.golden
    for wrong in ([], [saying(golden[0], numbers(golden[0])[:-2])]):
        with pytest.raises(CorruptVersionError, match="golden"):
            loaded(with_golden(made.version, wrong))


def test_a_number_that_is_none_is_refused(made: Made) -> None:
    for name in made.tensors:
        tensors = safetensors.torch.load(made.version.contents[name])
        for key, tensor in tensors.items():
            if tensor.is_floating_point() and tensor.numel():
                spoiled = tensor.clone()
                spoiled.view(-1)[0] = float("nan")
                with pytest.raises(CorruptVersionError):
                    loaded(with_tensors(made.version, name, {**tensors, key: spoiled}))


def test_a_tensor_of_another_shape_or_too_few_of_them_are_refused(made: Made) -> None:
    for name in made.tensors:
        tensors = safetensors.torch.load(made.version.contents[name])
        for key, tensor in list(tensors.items())[:4]:
            grown = torch.nn.functional.pad(tensor, (0, 1))
            with pytest.raises(CorruptVersionError):
                loaded(with_tensors(made.version, name, {**tensors, key: grown}))
        with pytest.raises(CorruptVersionError):
            loaded(with_tensors(made.version, name, {"unknown": torch.zeros(2)}))
        with pytest.raises(CorruptVersionError):
            loaded(made.version.with_file(name, b"no tensors"))


def test_a_missing_file_is_refused(made: Made) -> None:
    for name in (*made.tensors[:2], "encoder/tokenizer.json"):
        files = {other: entry for other, entry in made.version.manifest.files.items() if other != name}
        with pytest.raises(CorruptVersionError, match="lacks"):
            loaded(replace(made.version, manifest=msgspec.structs.replace(made.version.manifest, files=files)))


def test_an_encoder_that_is_not_the_base_is_refused(made: Made) -> None:
    base = msgspec.structs.replace(made.version.manifest.base, sha256="0" * 64)
    with pytest.raises(CorruptVersionError, match="not its base"):
        loaded(replace(made.version, manifest=msgspec.structs.replace(made.version.manifest, base=base)))


def test_a_version_follows_itself_and_none_of_another_task(made: Made, student: Loaded) -> None:
    student.check_follows(None, removal_declared=False)
    student.check_follows(loaded(made.version), removal_declared=False)
    record = made.version.manifest.student
    record.check_follows(record, removal_declared=False)
    fields = {"labels": ["a", "b"], "k": 1, "epsilon": 0.1, "scored": True, "golden": []}
    fields |= {"tokenizer": "", "template": "", "layers": 1, "rank": 1, "signals": []}
    fields |= {"max_prompt_tokens": 1, "max_answer_tokens": 1}
    for other in TASKS:
        if other != record.task:
            another: StudentRecord = msgspec.convert({"task": other, **fields}, type=StudentRecord)
            with pytest.raises(SwapRefusedError, match=other):
                record.check_follows(another, removal_declared=True)


def test_what_it_cannot_read_whole_is_too_long(made: Made, student: Loaded) -> None:
    assert student.too_long(made.long)
    assert not any(student.too_long(value) for value in made.inputs)
    assert all(student.tokens(value) > 0 for value in made.inputs)


def test_another_policy_changes_the_policy_alone(made: Made, student: Any) -> None:
    policy = Policy(
        temperature=1.0,
        threshold=0.7,
        novelty_threshold=0.5,
        target=0.9,
        confidence_level=0.95,
        coverage_ratio=0.5,
        rows=9,
        lower=0.9,
    )
    other = student.with_policy(policy)
    assert (other.policy, student.policy) == (policy, made.version.manifest.policy)
    assert [one.output for one in other.look(made.inputs)] == [one.output for one in student.look(made.inputs)]


@pytest.mark.parametrize("name", ["rank", "rank on a cross-encoder"])
def test_documents_in_another_order_have_the_same_scores(tmp_path: Any, name: str) -> None:
    made = MAKERS[name](tmp_path)
    student = loaded(made.version)
    for value in made.inputs:
        assert isinstance(value, RankInput)
        turn = np.random.default_rng(3).permutation(len(value.documents))
        moved = RankInput(query=value.query, documents=[value.documents[place] for place in turn])
        (plain,), (other,) = student.look([value]), student.look([moved])
        assert isinstance(plain, RankOpinion)
        assert isinstance(other, RankOpinion)
        assert other.scores == [plain.scores[place] for place in turn]
        assert [int(turn[place]) for place in other.order] == plain.order
        assert other.confidence == plain.confidence


def test_a_ranking_version_answers_for_the_tolerance_that_it_was_made_for(tmp_path: Any) -> None:
    made = MAKERS["rank"](tmp_path)
    student, record = loaded(made.version), made.version.manifest.student
    assert isinstance(student, Ranker)
    assert isinstance(record, RankRecord)
    assert student.tolerance == Tolerance(k=record.k, epsilon=record.epsilon) != Tolerance()
    assert (student.tuned_share, student.made_in) == (record.tuned_share, record.precision)
