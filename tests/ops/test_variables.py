"""Variables over the values of a settings file."""

from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field

from ops.state.variables import overlaid
from store.errors import SettingsError


class Inner(BaseModel):
    """A table in a table."""

    count: int = 0
    names: tuple[str, ...] = ()


class Table(BaseModel):
    """A table."""

    text: Annotated[str, Field(min_length=1)] = "a"
    inner: Inner = Inner()
    extra: Annotated[dict[str, Any], Field(repr=False)] = {}


class Whole(BaseModel):
    """The file."""

    number: float = 0.0
    table: Table = Table()
    rows: tuple[Table, ...] = ()


@pytest.mark.parametrize(
    ("values", "variables", "found"),
    [
        ({}, {}, {}),
        ({"number": 1}, {"UNDERSTUDY_NUMBER": "2"}, {"number": "2"}),
        ({"number": 1}, {"OTHER_NUMBER": "2", "UNDERSTUDYNUMBER": "3"}, {"number": 1}),
        ({"number": 1}, {"understudy_Number": ""}, {"number": ""}),
        ({}, {"UNDERSTUDY_TABLE__TEXT": "[1]"}, {"table": {"text": "[1]"}}),
        (
            {"table": {"text": "b", "inner": {"count": 1}}},
            {"UNDERSTUDY_TABLE__INNER__NAMES": '["x"]'},
            {"table": {"text": "b", "inner": {"count": 1, "names": ["x"]}}},
        ),
        (
            {"table": {"text": "b", "inner": {"count": 1}}},
            {"UNDERSTUDY_TABLE__TEXT": "d", "UNDERSTUDY_TABLE": '{"text": "c", "inner": {"names": []}}'},
            {"table": {"text": "d", "inner": {"count": 1, "names": []}}},
        ),
        (
            {"table": {"extra": {"a": 1}}},
            {"UNDERSTUDY_TABLE__EXTRA": '{"b": 2}'},
            {"table": {"extra": {"a": 1, "b": 2}}},
        ),
        ({"rows": [{"text": "b"}]}, {"UNDERSTUDY_ROWS": '[{"text": "c"}]'}, {"rows": [{"text": "c"}]}),
        ({}, {"UNDERSTUDY_TABLE__TXT__X": "1"}, {"table": {"txt": {"x": "1"}}}),
        ({"table": 3}, {"UNDERSTUDY_TABLE__TEXT": "c"}, {"table": {"text": "c"}}),
        ({}, {"UNDERSTUDY_UNKNOWN": "1", "UNDERSTUDY_UNKNOWN__X": "[1"}, {}),
    ],
)
def test_a_variable_sets_its_key_and_leaves_the_neighbours(
    values: dict[str, Any], variables: dict[str, str], found: dict[str, Any]
) -> None:
    before = repr(values)
    assert overlaid(values, variables, Whole) == found
    assert repr(values) == before


@pytest.mark.parametrize("name", ["UNDERSTUDY_ROWS", "UNDERSTUDY_TABLE", "UNDERSTUDY_TABLE__INNER__NAMES"])
def test_a_table_or_list_that_is_no_json_is_refused_by_its_variable_and_its_text_is_not_shown(name: str) -> None:
    with pytest.raises(SettingsError, match=f"variable {name} is no JSON") as raised:
        overlaid({}, {name: "[hunter2"}, Whole)
    assert "hunter2" not in str(raised.value)
