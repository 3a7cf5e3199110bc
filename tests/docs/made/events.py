"""The event reference: every field of every task's event, and the closed lists of words, from the event's types."""

import inspect
import json
from typing import Any, Final, get_args

from store.event import MAX_EVENT_BYTES, DeadReason, Reason, json_schema
from tests.docs.made.markdown import head, one_line, page, table

_ESCALATIONS: Final = ("ClassifyEscalation", "RankEscalation", "ChatEscalation")


def events_page() -> str:
    """The whole page."""
    schema = json_schema()["$defs"]
    lines = head(
        "The event",
        "`store/event.py`",
        f"One JSON object in UTF-8 a record, at most {MAX_EVENT_BYTES:,} bytes. The machine-readable form is"
        " [`store/escalation-v1.schema.json`](../../store/escalation-v1.schema.json) (JSON Schema 2020-12). The"
        " gateway writes these events, and [other producers](../how-to/other-producers.md) may. Fields that a release"
        " does not know are ignored; fields that may be left out have a default.",
    )
    shown = list(_ESCALATIONS)
    for name in shown:  # grows as they name others
        found = schema[name]
        lines += [f"## {name}", "", one_line(inspect.cleandoc(found.get("description", ""))), ""]
        lines += table(("field", "type", ""), [_field(found, *field) for field in found["properties"].items()])
        shown += [one for one in _named(found) if one not in shown]
    lines += [
        "## Reasons of an escalation",
        "",
        ", ".join(f"`{one}`" for one in get_args(Reason)) + ".",
        "",
        "## Reasons of a dead letter",
        "",
        ", ".join(f"`{one}`" for one in get_args(DeadReason)) + ". `understudy dlq list` shows them by reason.",
    ]
    return page(lines)


def _field(found: dict[str, Any], name: str, field: dict[str, Any]) -> tuple[str, str, str]:
    if name in found.get("required", ()):
        return f"`{name}`", _kind(field), "required"
    default = field.get("default")
    return f"`{name}`", _kind(field), f"default `{json.dumps(default)}`" if default else "may be left out"


def _kind(field: dict[str, Any]) -> str:
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in field:
        return " or ".join(map(_kind, field["anyOf"]))
    if "enum" in field:
        return ", ".join(f"`{one}`" for one in field["enum"])
    match field.get("type"):
        case "array":
            return f"array of {_kind(field.get('items', {}))}"
        case "object":
            return (
                f"object of {_kind(field['additionalProperties'])}" if field.get("additionalProperties") else "object"
            )
        case kind:
            return " ".join([kind or "any", *(f"{sign} {field[key]:g}" for key, sign in _BOUNDS if key in field)])


_BOUNDS: Final = (("minimum", "≥"), ("maximum", "≤"))


def _named(found: object) -> list[str]:
    """The definitions that one names, in order."""
    if isinstance(found, dict):
        own = [found["$ref"].rpartition("/")[2]] if isinstance(found.get("$ref"), str) else []
        return own + [name for inner in found.values() for name in _named(inner)]
    return [name for inner in found for name in _named(inner)] if isinstance(found, list) else []
