"""The folder of a decoder, checked by its files alone: no torch is needed to say that one is missing or no model."""

from pathlib import Path
from typing import Final

from store.student.folder import CONFIG_NAME, TOKENIZER_NAME, WEIGHTS_NAME

SETTINGS_NAME: Final = "tokenizer_config.json"  # holds the chat template
GENERATION_NAME: Final = "generation_config.json"  # may be missing
BASE_FILES: Final = (CONFIG_NAME, TOKENIZER_NAME, SETTINGS_NAME, WEIGHTS_NAME)


def find_decoder(setting: str | Path, named: str) -> Path:
    return Path(setting)
