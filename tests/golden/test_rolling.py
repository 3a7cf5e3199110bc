"""A gateway of today before an ingest of yesterday: what it writes, every release that kept its task can read."""

import json
from typing import Any

import pytest

from store.event import json_schema
from tests.golden.write import HERE

SCHEMAS = sorted(HERE.glob("schema-*.json"))
KEPT = ["ClassifyEscalation"]  # tasks that the first release kept


def refused(before: Any, now: Any, name: str) -> list[str]:
    """Where a record of `now` may be one that a reader of `before` refuses: it ignores fields that it does not know."""
    if "properties" not in before.get("$defs", {}).get(name, {}):
        return [f"{name} is not there"]
    old, new = before["$defs"][name], now["$defs"][name]
    problems = [f"{name}.{field} may be missing" for field in set(old["required"]) - set(new["required"])]
    for field, shape in old["properties"].items():
        found = new["properties"].get(field)
        if found is None:
            continue  # it has a default, or it would be missing
        if found != shape:
            problems.append(f"{name}.{field} was {shape}, and is {found}")
        problems += [problem for inner in referred(shape) for problem in refused(before, now, inner)]
    return problems


def referred(shape: Any) -> list[str]:
    """The records that a field's value may be."""
    options = [shape, *shape.get("anyOf", [])]
    return [one["$ref"].rpartition("/")[2] for one in options if "$ref" in one]


@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda path: str(path.stem))
def test_what_this_release_writes_is_read_by_releases_before_it(schema: Any, name: str) -> None:
    assert refused(json.loads(schema.read_text("utf-8")), json_schema(), name) == []


@pytest.mark.parametrize("field", ["label", "reason"])
def test_a_field_that_became_optional_or_wider_would_be_seen(field: str) -> None:
    (first, *_) = SCHEMAS
    now = json.loads(json.dumps(json_schema()))
    if field == "label":
        now["$defs"]["LabelAnswer"]["required"].remove("label")
    else:
        now["$defs"]["EscalationCause"]["properties"]["reason"]["enum"].append("a whim")
    assert len(refused(json.loads(first.read_text("utf-8")), now, "ClassifyEscalation")) == 1
