"""What must not be printed, whatever a library puts into its error."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final
from urllib.parse import unquote, urlsplit

from ops.settings import Settings, read_api_key, read_engine_key, read_log_password
from store.errors import SettingsError

_SHORTEST: Final = 4  # characters: a shorter one would be taken out of plain words


def secrets_of(settings: Settings) -> set[str]:
    """Every secret in the settings, and in the variables that they name."""
    return {one for one in _all(settings) if len(one) >= _SHORTEST}


def _all(settings: Settings) -> Iterator[str]:
    yield from _passwords(settings.redis.url)
    yield from _read(lambda: read_log_password(settings.log))
    for section in settings.lanes:
        yield from section.api_keys
        yield from _passwords(section.teacher.proxy or "")
        yield from _passwords(section.teacher.base_url)
        yield from _read(lambda one=section: read_api_key(one))  # type: ignore[misc]
        yield from _read(lambda one=section: read_engine_key(one))  # type: ignore[misc]


def _read(read: Callable[[], str | None]) -> Iterator[str]:
    with suppress(SettingsError):  # who looks for keys says so
        yield read() or ""


def _passwords(url: str) -> Iterator[str]:
    """The password in an address, as it is written and as it is meant."""
    with suppress(ValueError):
        password = urlsplit(url).password or ""
        yield password
        yield unquote(password)
