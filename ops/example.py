"""The example of a settings file, made from the settings' own models and from what their source says of each key."""

import ast
import inspect
import json
import sys
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ops.sections import SHOWN, LaneSection
from ops.settings import Settings


def example_toml() -> str:
    """A complete settings file: every key with what it is for and its default, made from the models themselves."""
    scalars = [name for name, field in Settings.model_fields.items() if _section_of(field) is None and name != "lanes"]
    lines = [
        "# Settings of Understudy. A key behind # shows its default (or an example, where there is none): take the #",
        "# away to change it. A variable wins over this file: UNDERSTUDY_TRAINER__EVERY_S=60. Relative paths are",
        "# relative to this file.",
        *(line for name in scalars for line in _example_of(Settings, name)),
    ]
    for name, field in Settings.model_fields.items():
        if (section := _section_of(field)) is not None:
            lines += _table(f"[{name}]", section)
    lines += _table("[[lanes]]", LaneSection)
    for name, field in LaneSection.model_fields.items():
        if (section := _section_of(field)) is not None:
            lines += _table(f"[lanes.{name}]", section)
    return "\n".join(lines) + "\n"


def _section_of(field: FieldInfo) -> type[BaseModel] | None:
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _table(header: str, section: type[BaseModel]) -> Iterator[str]:
    yield from ("", *_comment(section.__doc__ or ""), header)
    for name, field in section.model_fields.items():
        if _section_of(field) is None:
            yield from _example_of(section, name)


def described(section: type[BaseModel]) -> dict[str, str]:
    """What each key is for: the text below it in the source, which only `init` reads."""
    return {
        key.target.id: text.value.value
        for key, text in pairwise(_classes(section.__module__)[section.__name__].body)
        if isinstance(key, ast.AnnAssign) and isinstance(key.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


@cache
def _classes(module: str) -> dict[str, ast.ClassDef]:
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def _example_of(section: type[BaseModel], name: str) -> Iterator[str]:
    field = section.model_fields[name]
    extra = field.json_schema_extra
    shown = field.is_required() or (isinstance(extra, dict) and bool(extra.get(SHOWN)))
    value = field.examples[0] if field.examples else field.default
    default = "Required." if field.is_required() else f"Default: {_toml(field.default)}."
    yield from (
        "",
        *_comment(f"{described(section)[name]} {default if field.default is not None else 'Default: unset.'}"),
    )
    yield f"{'' if shown else '#'}{name} = {_toml(value)}"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), 110, initial_indent="# ", subsequent_indent="# ")


def _toml(value: Any) -> str:
    """A value as TOML writes it; JSON's strings, numbers, booleans and arrays are TOML's, too."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{name} = {_toml(inner)}" for name, inner in value.items()) + " }"
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)
