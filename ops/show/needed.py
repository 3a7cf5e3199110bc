"""Whether what an extra brings is there: no process of an installation needs it."""

from importlib.util import find_spec

from store.errors import SettingsError


def need_figures(command: str) -> None:
    """See that there is something to draw with, before a command works for hours.

    Raises:
        SettingsError: there is not; the message names the extra.
    """
    if find_spec("matplotlib") is None:
        message = f"{command} draws figures, and matplotlib is not installed: pip install 'understudy[figures]'"
        raise SettingsError(message)


def need_parquet() -> None:
    """See that Parquet can be written, before anything is read.

    Raises:
        SettingsError: it cannot; the message names the extra.
    """
    if find_spec("pyarrow") is None:
        message = "Parquet is written with pyarrow, which is not installed: pip install 'understudy[parquet]', or take"
        message += " --format jsonl"
        raise SettingsError(message)
