"""Where in a registry things lie: a lane's in `<root>/<tenant>/<use_case>/`, dead letters' in `<root>/_letters/`."""

import re
from pathlib import Path
from typing import Final

from store.errors import RegistryError
from store.event import Lane

LETTERS: Final = "_letters"  # the folder beside those of tenants
_SLUG: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def lane_registry(root: Path, lane: Lane) -> tuple[Path, Path]:
    """The folders of a lane's versions and of its moves.

    Raises:
        RegistryError: the lane's names are no slugs, and could point out of the registry.
    """
    if _SLUG.fullmatch(lane.tenant) is None or _SLUG.fullmatch(lane.use_case) is None:
        message = f"lane {str(lane)!r}: tenant and use case are lower-case letters, digits, - and _"
        raise RegistryError(message)
    folder = root / lane.tenant / lane.use_case
    return folder / "versions", folder / "moves"


def rulings_folder(root: Path, lane: Lane) -> Path:
    """The folder of a lane's rulings, beside its moves; errors as of `lane_registry`."""
    return lane_registry(root, lane)[1].with_name("rulings")


def letters_folder(root: Path, use_case: str) -> Path:
    """The folder of decisions about a use case's dead letters; no tenant has its name.

    Raises:
        RegistryError: the name is no slug, and could point out of the registry.
    """
    if _SLUG.fullmatch(use_case) is None:
        message = f"use case {use_case!r}: lower-case letters, digits, - and _"
        raise RegistryError(message)
    return root / LETTERS / use_case
