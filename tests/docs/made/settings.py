"""The settings reference: every key with its type, its default and what it is for, from the models themselves."""

import json
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeGuard, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ops.example import described
from ops.sections import LaneSection
from ops.settings import Settings
from tests.docs.made.markdown import head, one_line, page, table

_WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path"}
_BOUNDS = (
    (annotated_types.Ge, "ge", "≥"),
    (annotated_types.Gt, "gt", ">"),
    (annotated_types.Le, "le", "≤"),
    (annotated_types.Lt, "lt", "<"),
)


def settings_page() -> str:
    """The whole page."""
    lines = head(
        "Settings",
        "`ops/sections.py`",
        "One TOML file, and `UNDERSTUDY_*` variables over it: `UNDERSTUDY_TRAINER__EVERY_S=60` sets `trainer.every_s`."
        " `understudy init` writes a file in which every key below stands, with its default. The file is the one that"
        " `--config` or `UNDERSTUDY_SETTINGS` names, else `./understudy.toml`; relative paths in it are relative to"
        " it. A wrong key or value stops the start with exit code 2 and the key's name. The last word of a key is its"
        " unit. What is *reloaded on SIGHUP* holds from the next question on; all else needs a restart.",
        "What to change first, and what never: [How to choose settings](../how-to/settings.md).",
    )
    lines += ["## Top level", "", *_table_of(Settings)]
    for name, section in _sections(Settings):
        lines += [f"## `[{name}]`", "", one_line(section.__doc__ or ""), "", *_table_of(section)]
    lines += ["## `[[lanes]]`", "", one_line(LaneSection.__doc__ or ""), "", *_table_of(LaneSection)]
    for name, section in _sections(LaneSection):
        lines += [f"## `[lanes.{name}]`", "", one_line(section.__doc__ or ""), "", *_table_of(section)]
    return page(lines)


def _sections(model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in model.model_fields.items():
        if _is_section(field.annotation):
            yield name, field.annotation


def _is_section(annotation: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _table_of(section: type[BaseModel]) -> list[str]:
    said = described(section)
    rows = [
        (f"`{name}`", _kind(field.annotation, field.metadata), _default(field), said[name])
        for name, field in section.model_fields.items()
        if name in said
    ]
    return table(("key", "value", "default", "what it is for"), rows)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value: Any = field.default
    if value is None:
        return "unset"
    if isinstance(value, dict):
        return "`{ " + ", ".join(f"{key} = {json.dumps(inner)}" for key, inner in value.items()) + " }`"
    return f"`{json.dumps(str(value) if isinstance(value, Path) else value)}`"


def _kind(annotation: Any, metadata: list[Any]) -> str:
    """A type in words: `number > 0`, `"a", "b"`, `list of text`."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{json.dumps(one)}`" for one in inner)
    if origin is types.UnionType or str(origin) == "typing.Union":
        return " or ".join(_kind(one, metadata) for one in inner if one is not type(None))
    if hasattr(annotation, "__metadata__"):
        return _kind(inner[0], [*metadata, *annotation.__metadata__])
    if origin is tuple:
        return f"list of {_kind(inner[0], [])}"
    word = "table" if origin is dict else _WORDS[annotation]
    return word + _bounds(metadata) if annotation in {int, float} else word


def _bounds(metadata: list[Any]) -> str:
    flat = [one for found in metadata for one in (found.metadata if isinstance(found, FieldInfo) else [found])]
    bounds = [f"{sign} {getattr(one, name):,}" for one in flat for kind, name, sign in _BOUNDS if isinstance(one, kind)]
    return " " + ", ".join(bounds) if bounds else ""
