"""`UNDERSTUDY_*` variables over the values of a settings file: `UNDERSTUDY_TRAINER__EVERY_S` sets `trainer.every_s`."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, get_args, get_origin

from pydantic import BaseModel

from store.errors import SettingsError

PREFIX: Final = "UNDERSTUDY_"
_DEEPER: Final = "__"


def overlaid(values: Mapping[str, Any], variables: Mapping[str, str], model: type[BaseModel]) -> dict[str, Any]:
    """The values with those of the variables in their place; variables that begin like no field are left alone.

    Capitals do not matter. A variable for a whole table or list is JSON; a table's keys that it leaves out stay as they
    are, and a variable for one of its keys wins over it.

    Raises:
        SettingsError: a table or list is no JSON; the text is not shown.
    """
    found = dict(values)
    ours = {name.lower().removeprefix(PREFIX.lower()): name for name in variables if name.upper().startswith(PREFIX)}
    for path in sorted(ours, key=lambda path: (path.count(_DEEPER), path)):
        keys = path.split(_DEEPER)
        if keys[0] in model.model_fields:
            found = _merged(found, _nested(keys, _read(ours[path], variables[ours[path]], _kind(model, keys))))
    return found


def _kind(model: type[BaseModel], keys: list[str]) -> Any:
    """What a key is declared to be; None where there is no such key, which is told when the values are checked."""
    kind: Any = model
    for key in keys:
        field = kind.model_fields.get(key) if isinstance(kind, type) and issubclass(kind, BaseModel) else None
        if field is None:
            return None
        kind = field.annotation
    return kind


def _read(name: str, text: str, kind: Any) -> Any:
    if not _has_parts(kind):
        return text
    try:
        return json.loads(text)
    except ValueError:  # which would show the text
        message = f"the environment variable {name} is no JSON; tables and lists in a variable are JSON"
        raise SettingsError(message) from None


def _has_parts(kind: Any) -> bool:
    """Whether values of this kind are tables or lists."""
    if get_origin(kind) is Annotated:
        return _has_parts(get_args(kind)[0])
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return True
    return get_origin(kind) in (tuple, list, dict)


def _nested(keys: list[str], value: Any) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = {key: _merged(under[key], value) for key, value in over.items() if _are_tables(under.get(key), value)}
    return {**under, **over, **both}


def _are_tables(one: Any, other: Any) -> bool:
    return isinstance(one, Mapping) and isinstance(other, Mapping)
