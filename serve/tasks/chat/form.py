"""Whether an answer has the form that its client asked for: `response_format` of chat completions."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing import Registry

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
    held = wanted.get("json_schema") if wanted.get("type") == "json_schema" else None
    schema = held.get("schema") if isinstance(held, Mapping) else None
    if not isinstance(schema, Mapping):
        return False
    try:
        return bool(_validator(msgspec.json.encode(schema, order="sorted")).is_valid(value))
    except Exception:  # noqa: BLE001 - a client's schema may be wrong in any way: its pattern no pattern, say
        return False


@lru_cache(_SCHEMAS)
def _validator(schema: bytes) -> Validator:
    """Of a schema, in the draft that it names.

    Raises:
        SchemaError: it is none.
    """
    found = msgspec.json.decode(schema)
    kind = validator_for(found)
    kind.check_schema(found)
    made: Validator = kind(found, registry=_NOTHING_ELSEWHERE)
    return made
