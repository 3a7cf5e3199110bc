"""How sure a student is before its answer is whole: the same in a version, while it grows, and from the prompt."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from store.registry.manifest import Manifest
from store.student.chat.chatter import Chatter
from store.student.chat.neighbours import Neighbours
from store.student.chat.trust import CONFIDENCE_NAME, OPENINGS_NAME
from tests.store.chat.versions import KNOWN, a_chat, early_of, make_chatter, write_version
from tests.store.drafts import make_versions

TEXTS = [*KNOWN, "is it not", "please help me with this"]
INPUTS = [a_chat(text) for text in TEXTS]


@pytest.fixture(scope="module")
def chatter(tmp_path_factory: pytest.TempPathFactory) -> Chatter:
    return make_chatter(tmp_path_factory.mktemp("student"), early=early_of())


def folder_of(chatter: Chatter, tmp_path: Path) -> tuple[Path, Manifest, Chatter]:
    """Its own draft: a student that is made anew lies in a folder of its own."""
    made = make_chatter(tmp_path / "student", early=chatter.early)
    draft = tmp_path / "draft"
    draft.mkdir()
    return draft, write_version(made, tmp_path / "student", draft), made


def published(draft: Path, manifest: Manifest, tmp_path: Path) -> Any:
    versions, key = make_versions(tmp_path / "registry")
    return versions.open(versions.publish(draft, manifest, key))


def test_a_version_is_as_sure_as_the_student_that_it_was_written_from(chatter: Chatter, tmp_path: Path) -> None:
    draft, manifest, made = folder_of(chatter, tmp_path)
    loaded = Chatter.load(published(draft, manifest, tmp_path), device="cpu", precision="fp32")
    assert loaded.moments == ("prompt", "first_tokens")
    for one, other in zip(loaded.look(INPUTS), made.look(INPUTS), strict=True):
        for moment in loaded.moments:
            assert one.early[moment].confidence == pytest.approx(other.early[moment].confidence, abs=1e-4)
            assert one.at(moment).confidence == one.early[moment].confidence
            assert one.at(moment).output == one.output
    assert loaded.check_golden() <= loaded.golden_tolerance


def test_the_first_tokens_say_the_same_while_the_answer_grows_as_when_it_is_whole(chatter: Chatter) -> None:
    whole = chatter.look(INPUTS)
    growing = chatter.growing()
    names = growing.add(INPUTS)
    views: dict[Any, float] = {}
    texts: dict[Any, list[str]] = {name: [] for name in names}
    done: dict[Any, Any] = {}
    while len(growing):
        done |= dict(growing.step())
        for name in names:
            if name in done:
                continue
            so_far = growing.so_far(name, viewed=name in views)
            texts[name].append(so_far.text)
            if so_far.view is not None:
                views[name] = so_far.view.confidence
    assert views, "all answers were too short to be looked at while they grew"
    for name, wanted in zip(names, whole, strict=True):
        assert done[name].output == wanted.output
        assert all(wanted.output.startswith(text.rstrip("\ufffd")) for text in texts[name])
        if name in views:
            assert views[name] == pytest.approx(wanted.early["first_tokens"].confidence, abs=1e-4)
            assert views[name] != pytest.approx(wanted.confidence, abs=1e-4)


def test_the_prompt_alone_says_the_same_before_and_after(chatter: Chatter) -> None:
    whole = chatter.look(INPUTS)
    for found, wanted in zip(chatter.expect(INPUTS), whole, strict=True):
        assert found.confidence == pytest.approx(wanted.early["prompt"].confidence, abs=1e-6)
        assert found.novelty == pytest.approx(wanted.novelty, abs=1e-6)
        assert found.output == ""


def test_an_earlier_version_says_so_at_the_end_alone(tmp_path: Path) -> None:
    made = make_chatter(tmp_path / "student")
    (tmp_path / "draft").mkdir()
    manifest = write_version(made, tmp_path / "student", tmp_path / "draft")
    loaded = Chatter.load(published(tmp_path / "draft", manifest, tmp_path), device="cpu", precision="fp32")
    assert loaded.moments == ()
    assert all(not one.early for one in loaded.look(INPUTS))


def test_numbers_that_say_something_else_than_the_trainer_saw_are_found(chatter: Chatter, tmp_path: Path) -> None:
    draft, manifest, _ = folder_of(chatter, tmp_path)
    numbers = safetensors.numpy.load((draft / CONFIDENCE_NAME).read_bytes())
    numbers["prompt.bias"] = np.array([9.0]) if numbers["prompt.bias"][0] < 5 else np.array([-9.0])
    numbers["first_tokens.bias"] = np.array([-9.0])
    (draft / CONFIDENCE_NAME).write_bytes(safetensors.numpy.save(numbers))
    loaded = Chatter.load(published(draft, manifest, tmp_path), device="cpu", precision="fp32")
    assert loaded.check_golden() == float("inf")


def test_openings_that_are_not_of_the_answers_are_refused(chatter: Chatter, tmp_path: Path) -> None:
    draft, manifest, _ = folder_of(chatter, tmp_path)
    (draft / OPENINGS_NAME).write_text(json.dumps(["one"]))
    with pytest.raises(Exception, match="1 openings of 3 answers"):
        Chatter.load(published(draft, manifest, tmp_path), device="cpu", precision="fp32")


def test_neighbours_are_as_one_as_their_commonest_answer() -> None:
    vectors = np.eye(4, dtype=np.float32)
    known = Neighbours(vectors=vectors, answers=["a", "b", "a", "a"], openings=["x", "x", "y", "x"])
    assert known.unanimous(vectors[:1]) == pytest.approx([0.75])
    assert known.opening(vectors[:2], ["x", "y"]) == pytest.approx([0.75, 0.25])
    nobody = Neighbours(vectors=vectors[:0], answers=[])
    assert nobody.unanimous(vectors[:1]) == nobody.opening(vectors[:1], ["x"]) == pytest.approx([0.0])
