"""What is looked at before a process waits for anything: every key that is wrong is named, not only the first."""

from collections.abc import Callable

from store.errors import SettingsError


def every(*checks: Callable[[], object]) -> None:
    """Make all of these checks.

    Raises:
        SettingsError: some failed; the message has the lines of each.
    """
    problems: list[str] = []
    for check in checks:
        try:
            check()
        except SettingsError as error:
            problems += str(error).splitlines()
    if problems:
        raise SettingsError("\n".join(dict.fromkeys(problems)))
