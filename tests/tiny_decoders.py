"""Tiny random decoders of each family that is run, with a lossless tokenizer and a chat template."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

CONTROL: Final = ("<|end|>", "<|begin|>", "<|pad|>")
END, BEGIN, PAD = range(len(CONTROL))
TEMPLATE: Final = (
    "{% for message in messages %}<|begin|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|begin|>assistant\n{% endif %}"
)
FAMILIES: Final[dict[str, tuple[Callable[..., PreTrainedConfig], dict[str, Any]]]] = {
    "llama": (LlamaConfig, {"tie_word_embeddings": True}),
    "mistral": (MistralConfig, {"sliding_window": 16}),
    "qwen2": (Qwen2Config, {}),
    "qwen3": (Qwen3Config, {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 2}),
    "gemma": (GemmaConfig, {}),
    "gemma2": (Gemma2Config, {"sliding_window": 16}),
    "gemma3": (Gemma3TextConfig, {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"] * 2}),
}


def tiny_decoder(
    directory: Path,
    *,
    family: str = "llama",
    seed: int = 0,
    ends: Sequence[int] = (END,),
    template: str = TEMPLATE,
    head_dim: int = 8,
) -> Path:
    """Write a random decoder of four layers and 32 units as a model directory and return it.

    Args:
        directory: where.
        family: one of `FAMILIES`.
        seed: of its weights.
        ends: ids that end an answer.
        template: its chat template.
        head_dim: of a head; some servers know but a few sizes.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer()
    kind, more = FAMILIES[family]
    config = kind(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head_dim,
        intermediate_size=48,
        max_position_embeddings=256,
        initializer_range=0.3,
        bos_token_id=BEGIN,
        eos_token_id=END,
        pad_token_id=PAD,
        **more,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                torch.nn.init.normal_(parameter, std=0.3)
    model.generation_config.eos_token_id = list(ends)
    model.save_pretrained(directory)
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "bos_token": CONTROL[BEGIN],
        "eos_token": CONTROL[END],
        "pad_token": CONTROL[PAD],
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": template,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


def _tokenizer() -> Tokenizer:
    """One token a byte, and the control tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*CONTROL, *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in CONTROL])
    return tokenizer
