"""Whether an answer has the form that its client asked for: `response_format` of chat completions."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec
from jsonschema.exceptions import SchemaError
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from store.tasks.chat import structure

_NOTHING_ELSEWHERE: Final[Registry[Any]] = Registry()  # a schema that points elsewhere is not fetched
_SCHEMAS: Final = 256


def keeps_form(text: str, wanted: Mapping[str, Any] | None) -> bool:
    """Whether an answer may be sent to who asked for this form; one that we cannot check may not.

    Args:
        text: the answer.
        wanted: `response_format`; None: any text will do.
    """
    if not wanted or wanted.get("type") == "text":
        return True
    if structure(text) is None:
        return False
    value = json.loads(text)
    if wanted.get("type") == "json_object":
        return isinstance(value, dict)
    schema = (wanted.get("json_schema") or {}).get("schema") if wanted.get("type") == "json_schema" else None
    if not isinstance(schema, Mapping):
        return False
    validator = _validator(msgspec.json.encode(schema, order="sorted"))
    try:
        return validator is not None and validator.is_valid(value)
    except (Unresolvable, RecursionError):
        return False


@lru_cache(_SCHEMAS)
def _validator(schema: bytes) -> Validator | None:
    """Of a schema, in the draft that it names; None: it is none."""
    found = msgspec.json.decode(schema)
    kind = validator_for(found)
    try:
        kind.check_schema(found)
    except SchemaError:
        return None
    made: Validator = kind(found, registry=_NOTHING_ELSEWHERE)
    return made
