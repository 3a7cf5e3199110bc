"""An adapter is merged as peft would apply it; one that is broken in any way is refused before anything loads it."""

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from store.errors import CorruptVersionError
from store.student.chat.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, TUNED_NAME, Trained
from store.student.chat.decoder import Decoder
from tests.tiny_decoders import tiny_decoder

Tensors = dict[str, Tensor]
Files = dict[str, bytes]
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
Q = "base_model.model.model.layers.2.self_attn.q_proj.lora_"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_decoder(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def base(folder: Path) -> Decoder:
    return Decoder.load(folder, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def theirs(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Files]:
    """A model with an adapter of rank 4 on its two top layers, and the files that peft writes of it."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=PROJECTIONS, layers_to_transform=[2, 3], task_type="CAUSAL_LM"
    )
    with warnings.catch_warnings(action="ignore"):  # it asks the model by names that are going out of use
        adapted = get_peft_model(model, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.2)
    written = tmp_path_factory.mktemp("peft")
    adapted.save_pretrained(str(written))
    names = {ADAPTER_CONFIG: "adapter_config.json", ADAPTER_WEIGHTS: "adapter_model.safetensors"}
    return adapted.eval(), {ours: (written / name).read_bytes() for ours, name in names.items()}


@pytest.fixture(scope="module")
def trained(base: Decoder, theirs: tuple[Any, Files]) -> Trained:
    return Trained.read(theirs[1], base.stack, layers=2, rank=4)


def test_a_merged_adapter_answers_as_pefts_own_model(
    base: Decoder, theirs: tuple[Any, Files], trained: Trained
) -> None:
    assert (trained.first, trained.rank, trained.alpha) == (2, 4, 8)
    twin, ids = trained.on(base), torch.tensor([base.template.render([{"role": "user", "content": "Hello?"}])])
    with torch.inference_mode():
        wanted = theirs[0](input_ids=ids).logits
        states, _ = twin.stack.run(twin.stack.embed(ids), torch.arange(ids.shape[1])[None])
        assert torch.allclose(twin.stack.logits(states), wanted, atol=1e-4)
        plain, _ = base.stack.run(base.stack.embed(ids), torch.arange(ids.shape[1])[None])
        assert not torch.allclose(base.stack.logits(plain), wanted, atol=1e-1)


def test_a_twin_holds_the_adapted_layers_alone(base: Decoder, trained: Trained) -> None:
    twin = trained.on(base)
    own = dict(base.model.named_parameters())
    changed = [name for name, value in twin.model.named_parameters() if value.data_ptr() != own[name].data_ptr()]
    assert len(changed) == 2 * len(PROJECTIONS)
    assert all(name.startswith(("model.layers.2.", "model.layers.3.")) for name in changed)


def test_what_was_trained_comes_back_from_its_files(base: Decoder, trained: Trained, tmp_path: Path) -> None:
    trained.write(tmp_path)
    files = {name: (tmp_path / name).read_bytes() for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)}
    again = Trained.read(files, base.stack, layers=2, rank=4)
    assert (again.first, again.rank, again.alpha) == (2, 4, 8)
    assert all(torch.equal(again.tensors[name], value) for name, value in trained.tensors.items())


def test_peft_reads_what_is_written(folder: Path, theirs: tuple[Any, Files], trained: Trained, tmp_path: Path) -> None:
    trained.write(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with warnings.catch_warnings(action="ignore"):
        adapted = PeftModel.from_pretrained(plain, str(tmp_path / "adapter")).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        assert torch.equal(adapted(input_ids=ids).logits, theirs[0](input_ids=ids).logits)


def test_layers_trained_in_full_come_back_and_are_whole(base: Decoder) -> None:
    own = dict(base.model.named_parameters())
    tensors = {name: value + 0.1 for name, value in own.items() if name.startswith("model.layers.3.")}
    full = Trained(first=3, rank=None, alpha=0, tensors=tensors)
    twin = Trained.read(full.files(), base.stack, layers=1, rank=None).on(base)
    assert all(torch.equal(dict(twin.model.named_parameters())[name], value) for name, value in tensors.items())
    name = "model.layers.3.mlp.up_proj.weight"
    for broken, why in (
        ({one: value for one, value in tensors.items() if one != name}, "lack"),
        ({**tensors, "model.layers.2.mlp.up_proj.weight": tensors[name].clone()}, "unknown"),
        ({**tensors, name: tensors[name] * float("inf")}, "NaN or infinite"),
        ({**tensors, name: tensors[name].T.contiguous()}, "would fit"),
        ({**tensors, name: torch.zeros(tensors[name].shape, dtype=torch.int8)}, "no numbers"),
    ):
        with pytest.raises(CorruptVersionError, match=why):
            Trained.read({TUNED_NAME: safetensors.torch.save(broken)}, base.stack, layers=1, rank=None)


def _nan(tensors: Tensors) -> Tensors:
    tensors[f"{Q}A.weight"][0, 0] = float("nan")
    return tensors


def _missing(tensors: Tensors) -> Tensors:
    return {name: value for name, value in tensors.items() if ".layers.3." not in name}


def _renamed(tensors: Tensors) -> Tensors:
    return {name.replace("self_attn", "attention"): value for name, value in tensors.items()}


def _lower(tensors: Tensors) -> Tensors:
    return {name.replace(".layers.2.", ".layers.1."): value for name, value in tensors.items()}


def _turned(tensors: Tensors) -> Tensors:
    return {**tensors, f"{Q}A.weight": tensors[f"{Q}A.weight"].T.contiguous()}


def _of_another_rank(tensors: Tensors) -> Tensors:
    return {name: (value[:2] if "lora_A" in name else value[:, :2]).contiguous() for name, value in tensors.items()}


def _more(tensors: Tensors) -> Tensors:
    return {**tensors, "base_model.model.lm_head.lora_A.weight": torch.zeros(4, 32)}


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_nan, "NaN"),
        (_missing, r"lack .*layers\.3\."),
        (_renamed, r"lack .*self_attn"),
        (_lower, r"lack .*layers\.2\."),
        (_turned, r"q_proj\.lora_A\.weight is \(32, 4\), and \(4, 32\) would fit"),
        (_of_another_rank, "would fit"),
        (_more, r"unknown .*lm_head"),
    ],
)
def test_tensors_that_are_broken_are_refused(
    base: Decoder, theirs: tuple[Any, Files], spoil: Callable[[Tensors], Tensors], why: str
) -> None:
    tensors = spoil(safetensors.torch.load(theirs[1][ADAPTER_WEIGHTS]))
    files = {**theirs[1], ADAPTER_WEIGHTS: safetensors.torch.save(tensors)}
    with pytest.raises(CorruptVersionError, match=why):
        Trained.read(files, base.stack, layers=2, rank=4)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("r", 8, "says r 8"),
        ("lora_alpha", 0, "alpha 0"),
        ("lora_alpha", "much", "no configuration"),
        ("target_modules", ["q_proj"], "target_modules"),
        ("layers_to_transform", [3], "layers_to_transform"),
        ("layers_to_transform", None, "no configuration"),
        ("peft_type", "IA3", "peft_type"),
        ("bias", "all", "bias"),
        ("use_dora", True, "use_dora"),
        ("use_rslora", True, "use_rslora"),
        ("rank_pattern", {"q_proj": 2}, "rank_pattern"),
        ("modules_to_save", ["lm_head"], "modules_to_save"),
        ("something_new", 1, "something_new"),
    ],
)
def test_a_configuration_that_lies_or_asks_for_more_is_refused(
    base: Decoder, theirs: tuple[Any, Files], name: str, value: Any, why: str
) -> None:
    config = {**json.loads(theirs[1][ADAPTER_CONFIG]), name: value}
    with pytest.raises(CorruptVersionError, match=why):
        Trained.read({**theirs[1], ADAPTER_CONFIG: json.dumps(config).encode()}, base.stack, layers=2, rank=4)


@pytest.mark.parametrize(("layers", "rank"), [(1, 4), (3, 4), (2, 8), (9, 4), (0, 4)])
def test_a_record_that_says_something_else_is_refused(
    base: Decoder, theirs: tuple[Any, Files], layers: int, rank: int
) -> None:
    with pytest.raises(CorruptVersionError):
        Trained.read(theirs[1], base.stack, layers=layers, rank=rank)


@pytest.mark.parametrize(("name", "keep"), [(ADAPTER_WEIGHTS, 100), (ADAPTER_WEIGHTS, -8), (ADAPTER_CONFIG, 20)])
def test_files_that_are_cut_or_missing_are_refused(
    base: Decoder, theirs: tuple[Any, Files], name: str, keep: int
) -> None:
    files = dict(theirs[1])
    files[name] = files[name][:keep]
    with pytest.raises(CorruptVersionError, match=name.rsplit("/", 1)[-1].split(".", maxsplit=1)[0]):
        Trained.read(files, base.stack, layers=2, rank=4)
    del files[name]
    with pytest.raises(CorruptVersionError, match="needs"):
        Trained.read(files, base.stack, layers=2, rank=4)


def test_an_adapter_of_another_decoder_is_refused(trained: Trained, tmp_path: Path) -> None:
    other = Decoder.load(tiny_decoder(tmp_path, family="gemma3"), device="cpu", precision="fp32")
    with pytest.raises(CorruptVersionError):
        replace(trained, first=3).on(other)
