"""What the settings say of prices: of a teacher's call where none was measured, and of training."""

from string import Template
from typing import Final

from ops.sections import LaneSection
from ops.settings import Settings, read_prompt
from store.errors import SettingsError
from store.money.reckon import Prices

CHARS_PER_TOKEN: Final = 4.0  # of English text, about
ANSWER_TOKENS: Final = 4.0  # of a label, about
_MTOK: Final = 1e6


def prices_of(settings: Settings, section: LaneSection) -> Prices:
    """The lane's prices; a prompt that cannot be read is taken for an empty one."""
    teacher = section.teacher
    try:
        prompt = Template(read_prompt(section)).safe_substitute(text="", labels="\n".join(section.labels))
    except SettingsError:
        prompt = ""
    tokens = len(prompt) / CHARS_PER_TOKEN
    return Prices(
        usd_per_training_hour=settings.trainer.usd_per_hour,
        usd_per_call_base=(tokens * teacher.input_usd_per_mtok + ANSWER_TOKENS * teacher.output_usd_per_mtok) / _MTOK,
        usd_per_char=teacher.input_usd_per_mtok / CHARS_PER_TOKEN / _MTOK,
    )
