"""A tiny random encoder with a real tokenizer: every law of the student holds for it, in milliseconds."""

import json
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, BertModel

torch.set_num_threads(1)  # a second thread beside a busy process makes everything slower

TOPICS = {
    "refund": ["money", "back", "refund", "charged", "twice", "payment"],
    "delivery": ["parcel", "late", "courier", "address", "arrived", "tracking"],
    "login": ["password", "account", "locked", "reset", "email", "code"],
}
FILLER = ["my", "the", "is", "was", "please", "help", "with", "it", "not", "when", "today", "a", "has", "and", "?"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = [*SPECIAL, *FILLER, *(word for words in TOPICS.values() for word in words)]


def tiny_encoder(directory: Path, *, layers: int = 4, seed: int = 0) -> Path:
    """Write a random BERT of 32 units as a model directory and return it."""
    directory.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        BertModel(_config(layers)).save_pretrained(directory)
    _write_tokenizer(directory)
    return directory


def tiny_cross_encoder(directory: Path, *, layers: int = 4, seed: int = 0, outputs: int = 1) -> Path:
    """Write a random BERT of 32 units that classifies pairs as a model directory and return it."""
    directory.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = _config(layers)
        config.num_labels = outputs
        BertForSequenceClassification(config).save_pretrained(directory)
    _write_tokenizer(directory, pair="[CLS] $A [SEP] $B:1 [SEP]:1")
    return directory


def _config(layers: int) -> BertConfig:
    return BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.2,
    )


def _write_tokenizer(directory: Path, *, pair: str | None = None) -> None:
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))  # noqa: S106 - no password
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair=pair, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))


def questions(n: int, *, seed: int = 0) -> tuple[list[str], list[str]]:
    """N texts with their topics: three words of the topic among filler, so that a head can learn it."""
    dice = Random(seed)
    texts, labels = [], []
    for _ in range(n):
        label = dice.choice(sorted(TOPICS))
        words = dice.sample(TOPICS[label], 3) + dice.choices(FILLER, k=dice.randint(1, 4))
        dice.shuffle(words)
        texts.append(" ".join(words))
        labels.append(label)
    return texts, labels
