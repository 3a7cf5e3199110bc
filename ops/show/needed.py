"""Whether figures can be drawn: matplotlib comes with an extra, since no process of an installation needs it."""

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
