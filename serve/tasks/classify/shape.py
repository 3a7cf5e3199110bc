"""The form in which a client wants a label: itself, or in the JSON object that its `response_format` asks for."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from serve.front.errors import ApiError
from store.errors import InvalidAnswerError
from store.labels import listed

_SCHEMA: Final = "response_format.json_schema.schema"
_LABEL: Final = "label"  # the property of an object whose form nobody asked for
_SAID: Final = frozenset({"type", "enum", "const", "title", "description", "default", "examples", "deprecated"})
"""Keywords of JSON Schema that say no more of a text than that it is one of a list."""
_REFERENCE: Final = re.compile(r"#/(?:\$defs|definitions)/([^/~%]+)")
_DEEPEST: Final = 8


def unsupported(*, field: str, message: str) -> ApiError:
    """A well-formed request for what a label is not."""
    return ApiError(400, "unsupported_value", message, field)


def contents(wanted: Any, labels: Sequence[str]) -> Mapping[str, str]:
    """What the answer's content is for each label.

    Args:
        wanted: the request's `response_format`.
        labels: the lane's.

    Raises:
        ApiError: 400 that names the field: no label can be told so.
    """
    kind = "text" if wanted is None else wanted.get("type") if isinstance(wanted, Mapping) else None
    if kind == "text":
        return {label: label for label in labels}
    if kind == "json_object":
        return {label: _json({_LABEL: label}) for label in labels}
    if kind != "json_schema":
        message = "text, json_object or json_schema: a classify lane answers with a label"
        raise unsupported(field="response_format.type", message=message)
    held = wanted.get("json_schema")
    schema = held.get("schema") if isinstance(held, Mapping) else None
    if not isinstance(schema, Mapping):
        raise unsupported(field=_SCHEMA, message="a JSON Schema of an object with a property for the label")
    return _of_schema(schema, labels)


def _of_schema(schema: Mapping[str, Any], labels: Sequence[str]) -> Mapping[str, str]:
    root = _resolved(schema, schema)
    properties = root.get("properties")
    if not isinstance(properties, Mapping) or root.get("type", "object") != "object":
        raise unsupported(field=_SCHEMA, message="an object with properties, one of them a text for the label")
    read = {name: _resolved(one, schema) for name, one in properties.items()}
    texts = [name for name, one in read.items() if _is_text(one)]
    lists = [name for name in texts if _values(read[name]) is not None]
    found = lists or texts
    if len(found) != 1:
        what = "no property is" if not found else f"{len(found)} properties ({', '.join(found)}) are"
        message = f"{what} a text or an enum of texts: one has to be, for the label"
        raise unsupported(field=_SCHEMA, message=message)
    (name,) = found
    required = root.get("required")
    beside = [one for one in required if one != name] if isinstance(required, list) else []
    for one in beside:
        if not _may_be_null(properties.get(one), schema):
            message = f"{one!r} is required, and there is nothing but the label to say: leave it out, or let it be null"
            raise unsupported(field=_SCHEMA, message=message)
    spelled = _spelled(read[name], labels, f"{_SCHEMA}.properties.{name}")
    order = [one for one in properties if one == name or one in beside]
    return {label: _json({one: spelled[label] if one == name else None for one in order}) for label in labels}


def _spelled(text: Mapping[str, Any], labels: Sequence[str], field: str) -> Mapping[str, str]:
    """Each label as the schema spells it."""
    if more := sorted(text.keys() - _SAID):
        message = f"{more[0]}: not read here; an enum of the lane's labels says what the label may be"
        raise unsupported(field=field, message=message)
    values = _values(text)
    if values is None:
        return {label: label for label in labels}
    spelled: dict[str, str] = {}
    for value in values:
        try:
            spelled.setdefault(listed(value, labels), value)
        except InvalidAnswerError:
            continue  # a value that the lane never gives
    spelled |= {label: label for label in labels if label in values}
    if missing := [label for label in labels if label not in spelled]:
        message = f"its enum lacks {', '.join(map(repr, missing[:5]))} of the lane's labels: add what the lane may say"
        raise unsupported(field=f"{field}.enum", message=message)
    return spelled


def _is_text(one: Mapping[str, Any]) -> bool:
    kind = one.get("type")
    kinds = kind if isinstance(kind, list) else [kind]
    return "string" in kinds or (kind is None and bool(_values(one)))


def _values(one: Mapping[str, Any]) -> list[str] | None:
    """The texts that a property may be; None: any."""
    values = [one["const"]] if "const" in one else one.get("enum")
    return [value for value in values if isinstance(value, str)] if isinstance(values, list) else None


def _may_be_null(one: Any, schema: Mapping[str, Any]) -> bool:
    """Whether null is a value of a property."""
    one = _followed(one, schema)
    kind = one.get("type")
    if kind == "null" or (isinstance(kind, list) and "null" in kind):
        return True
    return any(_may_be_null(part, schema) for part in _alternatives(one))


def _resolved(one: Any, schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """A property's schema: its reference followed, and of `X or null` the X."""
    one = _followed(one, schema)
    others = [part for part in _alternatives(one) if _followed(part, schema).get("type") != "null"]
    return _followed(others[0], schema) if len(others) == 1 else one


def _alternatives(one: Mapping[str, Any]) -> list[Any]:
    held = (one.get(name) for name in ("anyOf", "oneOf", "allOf"))
    return next((found for found in held if isinstance(found, list)), [])


def _followed(one: Any, schema: Mapping[str, Any]) -> Mapping[str, Any]:
    for _ in range(_DEEPEST):
        if not isinstance(one, Mapping) or not isinstance(one.get("$ref"), str):
            break
        found, held = _REFERENCE.fullmatch(one["$ref"]), (schema.get("$defs") or schema.get("definitions") or {})
        one = held.get(found[1]) if found is not None and isinstance(held, Mapping) else None
    return one if isinstance(one, Mapping) else {}


def _json(value: Mapping[str, Any]) -> str:
    return msgspec.json.encode(value).decode()
