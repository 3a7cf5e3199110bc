"""The encoder: texts in, mean-pooled hidden states out. Trainer and gateway run this same code.

Weights come from safetensors and everything else from JSON, all of it from bytes that the caller has verified.
"""

import copy
import hashlib
import json
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Self, TypeVar
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel
from transformers.initialization import no_init_weights

from store.errors import CorruptVersionError, SwapRefusedError
from store.event import canonical_text
from store.student.folder import CONFIG_NAME, ENCODER_FILES, TOKENIZER_NAME, WEIGHTS_NAME

Precision = Literal["auto", "fp32", "bf16"]
FloatArray = npt.NDArray[np.float32]
TokenIds = list[list[int]]

FEATURE_LAYERS: Final = 2  # the last ones
DEFAULT_MAX_TOKENS: Final = 256
_BATCH_ROWS: Final = 32
_STEADY_ROWS: Final = 8  # in a batch of a fixed shape; one row alone costs as much as all of them
_SHAPE_STEP: Final = 16  # tokens
_CHARS_PER_TOKEN: Final = 4

E = TypeVar("E", bound="Encoder")

_loaded: "WeakValueDictionary[str, Encoder]" = WeakValueDictionary()
_loading = threading.Lock()  # also because transformers switches weight initialisation off for the whole process


def resolve_device(device: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def resolve_precision(precision: Precision, device: torch.device) -> Literal["fp32", "bf16"]:
    """`auto` is bf16 where the hardware multiplies it, else fp32: emulated bf16 is slower than either."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if torch.cpu.get_capabilities().get("avx512_bf16", False) else "fp32"


def mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """The mean of a layer's states over a text's tokens, with length 1 (L2).

    Args:
        hidden: [batch, tokens, hidden].
        mask: [batch, tokens], 1 for a token and 0 for padding.

    Returns:
        [batch, hidden], float32.
    """
    weights = mask.unsqueeze(-1).float()
    return functional.normalize((hidden.float() * weights).sum(1) / weights.sum(1).clamp(min=1.0), dim=-1)


class Encoder:
    """One frozen base encoder with its tokenizer. Safe to use from several threads at once."""

    reads: ClassVar[str] = f"mean-pool-{FEATURE_LAYERS}"  # a part of the fingerprint

    def __init__(
        self, *, model: Any, tokenizer: Tokenizer, precision: Literal["fp32", "bf16"], max_tokens: int, fingerprint: str
    ) -> None:
        self.model = model  # a PreTrainedModel without its pooler; nothing here changes it after loading
        self.precision = precision
        self.max_tokens = max_tokens
        self.fingerprint = fingerprint  # equal fingerprints, equal features
        self.hidden_size: int = model.config.hidden_size
        self.feature_layers: int = min(FEATURE_LAYERS, model.config.num_hidden_layers)
        self.feature_size: int = self.feature_layers * self.hidden_size
        self._tokenizer = tokenizer
        self._pad_id: int = getattr(model.config, "pad_token_id", None) or 0

    @classmethod
    def load(
        cls,
        source: Path | Mapping[str, bytes],
        *,
        device: str = "auto",
        precision: Precision = "auto",
        max_tokens: int = DEFAULT_MAX_TOKENS,
    ) -> Self:
        """Load an encoder from a model directory, or from the bytes of its files.

        Raises:
            CorruptVersionError: a file is missing, unreadable, or disagrees with the configuration.
            SwapRefusedError: this release cannot run such an encoder here.
        """
        try:
            files = source if isinstance(source, Mapping) else {n: (source / n).read_bytes() for n in ENCODER_FILES}
            hashes = {name: hashlib.sha256(files[name]).hexdigest() for name in ENCODER_FILES}
        except (KeyError, OSError) as error:
            message = f"an encoder needs {', '.join(ENCODER_FILES)}: {error}"
            raise CorruptVersionError(message) from error
        return shared_encoder(
            hashes, files.__getitem__, device=device, precision=precision, max_tokens=max_tokens, kind=cls
        )

    @staticmethod
    def build(config_json: bytes, weights: bytes) -> Any:
        """The model with the checkpoint's weights, in evaluation mode, without gradients and without a pooler.

        Raises:
            CorruptVersionError: the weights are not the configuration's.
            SwapRefusedError: this release cannot build such a model.
        """
        model = empty_model(config_json, AutoModel)
        if getattr(model, "pooler", None) is not None:
            model.pooler = None  # the students pool themselves
        assign(model, weights, prefix=f"{model.base_model_prefix}.")
        return model.eval().requires_grad_(requires_grad=False)

    def probe(self) -> FloatArray:
        """What it says to its longest input."""
        return self.pooled([self.longest()], layers=self.feature_layers)

    def longest(self) -> list[int]:
        """A row as long as any, of a token that is no padding."""
        vocabulary = self.model.get_input_embeddings().num_embeddings
        return [max(0, min(vocabulary - 1, self._pad_id + 1))] * self.max_tokens

    @property
    def tokens_known(self) -> int:
        """To the tokenizer."""
        return int(self._tokenizer.get_vocab_size())

    @property
    def parameters(self) -> int:
        """How many numbers its weights are."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device  # type: ignore[no-any-return]

    def tokenise(self, texts: Sequence[str]) -> TokenIds:
        """Canonical text, truncated at `max_tokens`, as token ids. Texts are redacted before they come here."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch([canonical_text(text) for text in texts])]

    def too_long(self, text: str) -> bool:
        """Whether `tokenise` would cut something off."""
        return bool(self._tokenizer.encode(canonical_text(text)).overflowing)

    def about_tokens(self, text: str) -> int:
        """About how many tokens a text takes, from its length alone."""
        return min(self.max_tokens, len(text) // _CHARS_PER_TOKEN + 2)

    def pad(self, rows: Sequence[Sequence[int]], *, tokens: int = 0) -> tuple[Tensor, Tensor]:
        """Token ids and mask, [batch, longest row or `tokens`] each, on the encoder's device."""
        longest = max(tokens, *map(len, rows))
        ids = [[*row, *[self._pad_id] * (longest - len(row))] for row in rows]
        mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
        return torch.tensor(ids, device=self.device), torch.tensor(mask, device=self.device)

    def filled(self, batch: TokenIds) -> TokenIds:
        """A batch of `by_shape` in its fixed number of rows."""
        return [*batch, *[[self._pad_id]] * (_STEADY_ROWS - len(batch))]

    def features(self, texts: Sequence[str]) -> FloatArray:
        """The last two layers, each mean-pooled with length 1, side by side: [n, feature_size].

        A row's features are a function of its text alone, to the last bit, on one machine.
        """
        return self.pooled(self.tokenise(texts), layers=self.feature_layers, steady=True)

    def pooled(self, rows: TokenIds, *, layers: int, model: Any = None, steady: bool = False) -> FloatArray:
        """The last `layers` layers of `model` (default: the base), mean-pooled: [n, layers * hidden_size].

        Rows are batched by length, so that little is computed for padding; the answer is in the order of the rows.

        Args:
            rows: token ids.
            layers: how many, from the top.
            model: another model of this architecture.
            steady: compute in batches of fixed shapes, which cost up to a few batches more: rounding depends on a
                batch's shape, never on the other rows in it, so a row's result is then the same in any company.
        """
        result = np.empty((len(rows), layers * self.hidden_size), dtype=np.float32)
        for tokens, index in self.by_shape(rows) if steady else _by_length(rows):
            batch = [rows[i] for i in index]
            ids, mask = self.pad(self.filled(batch) if steady else batch, tokens=tokens)
            with torch.inference_mode():
                output = (model or self.model)(input_ids=ids, attention_mask=mask, output_hidden_states=layers > 1)
                states = output.hidden_states[-layers:] if layers > 1 else (output.last_hidden_state,)
                pooled = torch.cat([mean_pool(state, mask) for state in states], dim=-1)
                result[index] = pooled[: len(index)].cpu().numpy()
        return result

    def by_shape(self, rows: TokenIds) -> Iterator[tuple[int, list[int]]]:
        """A number of tokens, and the numbers of the rows that are padded to it together; shortest first.

        In each batch one row or filler at least is shorter: a batch without any padding is computed in another way.
        """
        shapes: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            shapes.setdefault(min(self.max_tokens, (len(row) // _SHAPE_STEP + 1) * _SHAPE_STEP), []).append(i)
        for tokens, index in sorted(shapes.items()):
            count = _STEADY_ROWS - (tokens == self.max_tokens)
            for start in range(0, len(index), count):
                yield tokens, index[start : start + count]

    def layers(self, model: Any = None) -> nn.ModuleList:
        """The transformer's layers, lowest first; what is outside them is embeddings and norms."""
        for module in (model or self.model).modules():
            if isinstance(module, nn.ModuleList) and len(module) == self.model.config.num_hidden_layers:
                return module
        message = f"{type(self.model).__name__} has no list of its {self.model.config.num_hidden_layers} layers"
        raise SwapRefusedError(message)

    def twin(self, changed: Mapping[str, Tensor]) -> Self:
        """An encoder whose model has these parameters; every other tensor, and the tokenizer, is shared.

        Raises:
            CorruptVersionError: as of `with_changed`.
        """
        return type(self)(
            model=self.with_changed(changed),
            tokenizer=self._tokenizer,
            precision=self.precision,
            max_tokens=self.max_tokens,
            fingerprint=f"{self.fingerprint}+{secrets.token_hex(8)}",  # like no other
        )

    def with_changed(self, changed: Mapping[str, Tensor]) -> Any:
        """A copy of the model in which these parameters have these values; every other tensor is shared.

        Raises:
            CorruptVersionError: a name is not the model's, or a shape is another.
        """
        return changed_copy(self.model, changed)


def changed_copy(model: Any, changed: Mapping[str, Tensor]) -> Any:
    """A copy of a model in which these parameters have these values; every other tensor is shared.

    Raises:
        CorruptVersionError: a name is not the model's, or a shape is another.
    """
    own = dict(model.named_parameters())
    for name, value in changed.items():
        if name not in own or own[name].shape != value.shape:
            message = f"tensor {name} {tuple(value.shape)} does not fit the encoder"
            raise CorruptVersionError(message)
    kept = [*(p for name, p in own.items() if name not in changed), *model.buffers()]
    twin = copy.deepcopy(model, {id(tensor): tensor for tensor in kept})
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            if name in changed:
                parameter.copy_(changed[name])
    return twin


def shared_encoder(
    hashes: Mapping[str, str],
    read: Callable[[str], bytes],
    *,
    device: str,
    precision: Precision,
    max_tokens: int,
    kind: type[E],
) -> E:
    """The process's one encoder with these hashes: two slots on the same base hold its weights once.

    Args:
        hashes: sha256 of each of `ENCODER_FILES`.
        read: gives a file's verified bytes; not called when the encoder is loaded already.
        device: `cpu`, `cuda` or `auto`.
        precision: of the weights.
        max_tokens: the longest input, special tokens included.
        kind: what is made of the files.
    """
    where = resolve_device(device)
    numbers = resolve_precision(precision, where)
    parts = [*(hashes[name] for name in ENCODER_FILES), str(max_tokens), numbers, kind.reads]
    fingerprint = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    with _loading:
        known = _loaded.get(f"{fingerprint}@{where}")
        if isinstance(known, kind):
            return known
        model = kind.build(read(CONFIG_NAME), read(WEIGHTS_NAME))
        model.to(device=where, dtype=torch.bfloat16 if numbers == "bf16" else torch.float32)
        tokenizer = _tokenizer(read(TOKENIZER_NAME), max_tokens)
        encoder = kind(
            model=model, tokenizer=tokenizer, precision=numbers, max_tokens=max_tokens, fingerprint=fingerprint
        )
        _probe(encoder)
        _loaded[f"{fingerprint}@{where}"] = encoder
        return encoder


def read_tensors(name: str, data: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        CorruptVersionError: not safetensors, or a value is NaN or infinite.
    """
    try:
        tensors = safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        message = f"{name} is not a safetensors file: {error}"
        raise CorruptVersionError(message) from error
    for key, value in tensors.items():
        if not bool(torch.isfinite(value).all()):
            message = f"{name} holds NaN or infinite values in {key}"
            raise CorruptVersionError(message)
    return tensors


def empty_model(config_json: bytes, family: Any) -> Any:
    """A model of a configuration without weights; `family` is one of transformers' auto classes.

    Raises:
        CorruptVersionError: it is no configuration.
        SwapRefusedError: this release cannot build such a model.
    """
    try:
        config = dict(json.loads(config_json))
        model_type = config.pop("model_type")
    except (ValueError, KeyError, TypeError) as error:
        message = f"{CONFIG_NAME} is not a model configuration: {error!r}"
        raise CorruptVersionError(message) from error
    try:
        with no_init_weights():
            settings = AutoConfig.for_model(model_type, **config)
            return family.from_config(settings, trust_remote_code=False)
    except (ValueError, KeyError, TypeError, ImportError) as error:
        message = f"this release cannot build an encoder of type {model_type}: {error}"
        raise SwapRefusedError(message) from error


def assign(model: Any, weights: bytes, *, prefix: str = "") -> None:
    """Copy a checkpoint's tensors into the model; what its names begin with there is left out.

    Raises:
        CorruptVersionError: a tensor is missing, unknown or of another shape.
    """
    tensors = read_tensors(WEIGHTS_NAME, weights)
    named = {_modern(name.removeprefix(prefix)): value for name, value in tensors.items()}
    wanted = model.state_dict()
    missing = sorted(wanted.keys() - named.keys())
    unknown = sorted(name for name in named.keys() - wanted.keys() if not _is_spare(name, model))
    shapes = sorted(name for name in wanted.keys() & named.keys() if wanted[name].shape != named[name].shape)
    for problem, names in (("lacks", missing), ("has unknown", unknown), ("has misshapen", shapes)):
        if names:
            message = f"{WEIGHTS_NAME} {problem} {', '.join(names[:3])} ({len(names)} in all)"
            raise CorruptVersionError(message)
    model.load_state_dict({name: named[name] for name in wanted})


def _modern(name: str) -> str:
    """Old checkpoints call a norm's parameters gamma and beta."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _is_spare(name: str, model: Any) -> bool:
    """Whether a checkpoint's tensor is one that no student needs: another task's head, a pooler, or a kept constant.

    A tensor inside a part that the model has is no such thing: a configuration with fewer layers would hide it.
    """
    parts = {child for child, module in model.named_children() if module is not None}
    return name.split(".", maxsplit=1)[0] not in parts or name in dict(model.named_buffers())


def _tokenizer(data: bytes, max_tokens: int) -> Tokenizer:
    """The tokenizer set once and for all: changing it later would race with other threads."""
    try:
        tokenizer = Tokenizer.from_str(data.decode())
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_tokens)
    except Exception as error:  # the library raises bare exceptions
        message = f"{TOKENIZER_NAME} is not a tokenizer: {error}"
        raise CorruptVersionError(message) from error
    return tokenizer


def _probe(encoder: Encoder) -> None:
    """Run the longest input once: an encoder that cannot take it must not come into service."""
    vocabulary = encoder.model.get_input_embeddings().num_embeddings
    if encoder.tokens_known > vocabulary:
        message = f"the tokenizer knows more tokens than the encoder's {vocabulary}"
        raise CorruptVersionError(message)
    try:
        said = encoder.probe()
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        message = f"the encoder does not take {encoder.max_tokens} tokens: lower max_tokens ({error})"
        raise SwapRefusedError(message) from error
    if not np.isfinite(said).all():
        message = "the encoder's output is not finite"
        raise CorruptVersionError(message)


def _by_length(rows: TokenIds) -> Iterator[tuple[int, list[int]]]:
    """The longest row's tokens, and the numbers of rows of like lengths; the longest first.

    So memory runs out at once or not at all.
    """
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i))
    for start in range(0, len(order), _BATCH_ROWS):
        yield len(rows[order[start]]), order[start : start + _BATCH_ROWS]
