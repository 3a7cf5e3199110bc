"""The decoder: messages in, token ids and scores of tokens out. Trainer and gateway run this same code.

Weights come from safetensors and everything else from JSON. A base is loaded once for all versions that stand on it; a
version's own model is a twin, which holds the tensors that differ and shares the others.
"""

import copy
import hashlib
import json
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from weakref import WeakValueDictionary

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.initialization import no_init_weights

from store.errors import CorruptVersionError, SwapRefusedError
from store.student.chat.folder import BASE_FILES, FAMILIES, GENERATION_NAME, SETTINGS_NAME
from store.student.chat.stack import NOWHERE, Stack
from store.student.chat.template import Template
from store.student.encoder import Precision, resolve_device, resolve_precision
from store.student.folder import CONFIG_NAME, TOKENIZER_NAME, WEIGHTS_NAME

_loaded: "WeakValueDictionary[str, _Base]" = WeakValueDictionary()
_loading = threading.Lock()  # also because transformers switches weight initialisation off for the whole process


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class _Base:
    """What versions on one base share."""

    model: Any  # a causal PreTrainedModel; nothing changes it after loading
    template: Template
    precision: Literal["fp32", "bf16"]
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scores:
    """What a decoder says to n given answers, token by token."""

    logprobs: list[list[float]]  # of each answer's tokens, its end included
    greedy: list[list[int]]  # what it would have said in each place, the tokens before it given

    def agrees(self, answers: Sequence[Sequence[int]]) -> list[bool]:
        """Whether greedy generation gives exactly these answers."""
        return [said == list(answer) for said, answer in zip(self.greedy, answers, strict=True)]


class Decoder:
    """One decoder with its tokenizer. Safe to use from several threads at once."""

    def __init__(self, *, base: _Base, model: Any, fingerprint: str) -> None:
        self.stack = Stack(model)
        self.fingerprint = fingerprint  # equal fingerprints, equal answers
        self._base = base  # held, so that the next version on it finds it

    @staticmethod
    def load(
        source: Path | Mapping[str, bytes],
        *,
        device: str = "auto",
        precision: Precision = "auto",
    ) -> "Decoder":
        """Load a decoder from a model directory, or from the bytes of its files.

        Raises:
            CorruptVersionError: a file is missing, unreadable, or disagrees with the configuration.
            SwapRefusedError: this release cannot run such a decoder here.
        """
        try:
            if isinstance(source, Path):
                names = [*BASE_FILES, *([GENERATION_NAME] if (source / GENERATION_NAME).is_file() else [])]
                hashes = {name: _sha256(source / name) for name in names}
                weights: Path | bytes = source / WEIGHTS_NAME
                small = {name: (source / name).read_bytes() for name in names if name != WEIGHTS_NAME}
            else:
                names = [*BASE_FILES, *([GENERATION_NAME] if GENERATION_NAME in source else [])]
                hashes = {name: hashlib.sha256(source[name]).hexdigest() for name in names}
                weights, small = source[WEIGHTS_NAME], {name: source[name] for name in names}
        except (KeyError, OSError) as error:
            message = f"a decoder needs {', '.join(BASE_FILES)}: {error}"
            raise CorruptVersionError(message) from error
        return shared_decoder(
            hashes,
            small.__getitem__,
            lambda: weights,
            device=device,
            precision=precision,
        )

    @property
    def model(self) -> Any:
        """The library's model; the names of its parameters are those of `twin`."""
        return self.stack.model

    @property
    def template(self) -> Template:
        """Its tokenizer and chat template."""
        return self._base.template

    @property
    def precision(self) -> Literal["fp32", "bf16"]:
        """Of the weights."""
        return self._base.precision

    @property
    def longest(self) -> int:
        """How many tokens, prompt and answer together, it was made for."""
        return int(self.model.config.max_position_embeddings)

    def pad(self, rows: Sequence[Sequence[int]], *, first: int = 0) -> tuple[Tensor, Tensor]:
        """Token ids and positions, [rows, longest row] each; padding has any id and the position `NOWHERE`.

        Args:
            rows: token ids.
            first: the position of each row's first token.
        """
        ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
        places = [torch.arange(first, first + len(row)) for row in rows]
        positions = pad_sequence(places, batch_first=True, padding_value=NOWHERE)
        return ids.to(self.stack.device), positions.to(self.stack.device)

    def teacher_forced(
        self, rows: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], *, batch: int = 8
    ) -> Scores:
        """What the decoder says to answers that are given, in one pass over each.

        Args:
            rows: prompts, as `Template.render` gives them.
            answers: one a prompt, as `Template.answer_ids` gives them.
            batch: how many at once.
        """
        logprobs: list[list[float]] = [[] for _ in rows]
        greedy: list[list[int]] = [[] for _ in rows]
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]) - len(answers[i]))
        for start in range(0, len(order), batch):
            some = order[start : start + batch]
            chosen, best = self._forced([[*rows[i], *answers[i]] for i in some], [len(answers[i]) for i in some])
            for i, said, would in zip(some, chosen, best, strict=True):
                logprobs[i], greedy[i] = said, would
        return Scores(logprobs=logprobs, greedy=greedy)

    def _forced(
        self, rows: Sequence[Sequence[int]], lengths: Sequence[int]
    ) -> tuple[list[list[float]], list[list[int]]]:
        """Logprobs of the last `lengths` tokens of each row, and the likeliest token in each of their places."""
        ids, positions = self.pad(rows)
        with torch.inference_mode():
            states, _ = self.stack.run(self.stack.embed(ids), positions)
            asked = [
                states[i, len(row) - n - 1 : len(row) - 1] for i, (row, n) in enumerate(zip(rows, lengths, strict=True))
            ]
            scores = self.stack.logits(torch.cat(asked))
            said = torch.cat(
                [ids[i, len(row) - n : len(row)] for i, (row, n) in enumerate(zip(rows, lengths, strict=True))]
            )
            logprobs = scores.gather(1, said[:, None])[:, 0] - scores.logsumexp(dim=-1)
            best = scores.argmax(dim=-1)
        sizes = list(lengths)
        return [one.tolist() for one in torch.split(logprobs, sizes)], [
            one.tolist() for one in torch.split(best, sizes)
        ]

    def twin(self, changed: Mapping[str, Tensor]) -> "Decoder":
        """A decoder whose model has these parameters; every other tensor, and the tokenizer, is shared.

        Tensors of the model's own type are taken as they are: the caller leaves them alone from here on.

        Raises:
            CorruptVersionError: a name is not the model's, or a shape is another.
        """
        own = dict(self.model.named_parameters())
        for name, value in changed.items():
            if name not in own or own[name].shape != value.shape:
                message = f"tensor {name} {tuple(value.shape)} does not fit the decoder"
                raise CorruptVersionError(message)
        known = {id(tensor): tensor for tensor in [*own.values(), *self.model.buffers()]}
        for name, value in changed.items():
            fitting = value.to(device=own[name].device, dtype=own[name].dtype)  # itself, where it fits already
            known[id(own[name])] = torch.nn.Parameter(fitting, requires_grad=False)
        twin = copy.deepcopy(self.model, known)
        return Decoder(
            base=self._base,
            model=twin,
            fingerprint=f"{self.fingerprint}+{secrets.token_hex(8)}",  # like no other
        )


def shared_decoder(
    hashes: Mapping[str, str],
    read: Callable[[str], bytes],
    weights: Callable[[], Path | bytes],
    *,
    device: str,
    precision: Precision,
) -> Decoder:
    """A decoder on the process's one base with these hashes.

    Args:
        hashes: sha256 of each of `BASE_FILES`, and of the generation settings where there are any.
        read: gives a small file's verified bytes; not called when the base is loaded already.
        weights: where the verified weights lie, which are mapped, or their bytes; likewise.
        device: `cpu`, `cuda` or `auto`.
        precision: of the weights.

    Raises:
        CorruptVersionError: a file is unreadable, or disagrees with the configuration.
        SwapRefusedError: this release cannot run such a decoder here.
    """
    where = resolve_device(device)
    kind = resolve_precision(precision, where)
    parts = [*(hashes[name] for name in BASE_FILES), hashes.get(GENERATION_NAME, ""), kind]
    fingerprint = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    with _loading:
        base = _loaded.get(f"{fingerprint}@{where}")
        if base is None:
            model = _build(read(CONFIG_NAME), weights(), torch.bfloat16 if kind == "bf16" else torch.float32, where)
            template = template_of({name: read(name) for name in hashes if name != WEIGHTS_NAME})
            base = _Base(model=model, template=template, precision=kind, fingerprint=fingerprint)
            _probe(base)
            _loaded[f"{fingerprint}@{where}"] = base
    return Decoder(base=base, model=base.model, fingerprint=fingerprint)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def template_of(files: Mapping[str, bytes]) -> Template:
    """The tokenizer and chat template in a decoder's small files.

    Raises:
        CorruptVersionError: a file is unreadable, or there is no chat template.
    """
    ends: list[int] = []
    for name in (GENERATION_NAME, CONFIG_NAME):
        said = _json(name, files[name]).get("eos_token_id") if name in files else None
        ends += said if isinstance(said, list) else [said] if said is not None else []
    return Template(files[TOKENIZER_NAME], files[SETTINGS_NAME], ends=ends)


def config_of(config: bytes) -> Any:
    """The library's configuration of a decoder.

    Raises:
        CorruptVersionError: it is unreadable.
        SwapRefusedError: this release runs no such decoder.
    """
    said = _json(CONFIG_NAME, config)
    model_type = said.pop("model_type", None)
    if model_type not in FAMILIES:
        message = f"a decoder of type {model_type}: this release runs {', '.join(FAMILIES)}"
        raise SwapRefusedError(message)
    for name in ("dtype", "torch_dtype", "quantization_config"):
        said.pop(name, None)
    try:
        return AutoConfig.for_model(model_type, **said)
    except (ValueError, KeyError, TypeError, ImportError) as error:
        message = f"this release cannot build a decoder of type {model_type}: {error}"
        raise SwapRefusedError(message) from error


def outline(config: bytes) -> Stack:
    """The layers of a decoder by names and shapes alone, without weights; raises as `config_of` does."""
    with torch.device("meta"):
        return Stack(_empty(config_of(config)))


def _json(name: str, data: bytes) -> dict[str, Any]:
    try:
        return dict(json.loads(data))
    except (ValueError, TypeError) as error:
        message = f"{name} is unreadable: {error!r}"
        raise CorruptVersionError(message) from error


def _empty(config: Any) -> Any:
    try:
        with no_init_weights():
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)  # type: ignore[no-untyped-call]
    except (ValueError, KeyError, TypeError, ImportError, RuntimeError) as error:
        message = f"this release cannot build a decoder of type {config.model_type}: {error}"
        raise SwapRefusedError(message) from error


def _build(config: bytes, weights: Path | bytes, dtype: torch.dtype, device: torch.device) -> Any:
    """The causal model with the checkpoint's weights, in evaluation mode and without gradients."""
    model = _empty(config_of(config))
    _assign(model, _tensors(weights), dtype)
    return model.to(device).eval().requires_grad_(requires_grad=False)


def _tensors(weights: Path | bytes) -> dict[str, Tensor]:
    """A checkpoint's tensors; those of a file are mapped, not copied."""
    try:
        tensors: dict[str, Tensor] = (
            safetensors.torch.load_file(weights) if isinstance(weights, Path) else safetensors.torch.load(weights)
        )
    except (SafetensorError, ValueError, KeyError, OSError) as error:
        message = f"{WEIGHTS_NAME} is not a safetensors file: {error}"
        raise CorruptVersionError(message) from error
    for name, value in tensors.items():
        if not value.is_floating_point() or not bool(torch.isfinite(value).all()):
            message = f"{WEIGHTS_NAME} holds NaN or infinite values, or no numbers, in {name}"
            raise CorruptVersionError(message)
    return tensors


def _assign(model: Any, tensors: dict[str, Tensor], dtype: torch.dtype) -> None:
    """Put a checkpoint's tensors into the model, without a copy where they are of its type already."""
    tied = bool(model.config.tie_word_embeddings)
    wanted = {name: value for name, value in model.state_dict().items() if not (tied and name == "lm_head.weight")}
    spare = {"lm_head.weight"} if tied else set()
    missing = sorted(wanted.keys() - tensors.keys())
    unknown = sorted(
        name for name in tensors.keys() - wanted.keys() - spare if not name.endswith("rotary_emb.inv_freq")
    )
    shapes = sorted(name for name in wanted.keys() & tensors.keys() if wanted[name].shape != tensors[name].shape)
    for problem, names in (("lacks", missing), ("has unknown", unknown), ("has misshapen", shapes)):
        if names:
            message = f"{WEIGHTS_NAME} {problem} {', '.join(names[:3])} ({len(names)} in all)"
            raise CorruptVersionError(message)
    model.load_state_dict({name: tensors[name].to(dtype) for name in wanted}, strict=False, assign=True)
    if tied:
        model.tie_weights()


def _probe(base: _Base) -> None:
    """Ask once: a decoder that says what is no number must not come into service."""
    stack = Stack(base.model)
    rows = stack.model.get_input_embeddings().num_embeddings
    highest = max(base.template.tokens - 1, *base.template.ends)
    if highest >= rows:
        message = f"the tokenizer knows token {highest}, the decoder {rows} tokens"
        raise CorruptVersionError(message)
    try:
        ids = torch.tensor([[base.template.end] * 2], device=stack.device)
        with torch.inference_mode():
            states, _ = stack.run(stack.embed(ids), torch.arange(2, device=stack.device)[None])
            finite = bool(torch.isfinite(stack.logits(states)).all())
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        message = f"the decoder does not run here: {error}"
        raise SwapRefusedError(message) from error
    if not finite:
        message = "what the decoder says is not finite"
        raise CorruptVersionError(message)
