"""What a terminal is shown: every line fits, and no word is cut in two while there is another way."""

import re

from hypothesis import given
from hypothesis import strategies as st

from ops.show.columns import cells, fields, printable, table, wrapped

WORDS = st.text("abcdefgh", min_size=1, max_size=24)
CELLS = st.lists(WORDS, max_size=8).map(" ".join)
WIDTH = 80


@st.composite
def grids(draw: st.DrawFn) -> tuple[list[str], list[list[str]]]:
    columns = draw(st.lists(WORDS, min_size=1, max_size=7))
    return columns, draw(st.lists(st.lists(CELLS, min_size=len(columns), max_size=len(columns)), max_size=6))


@given(grid=grids())
def test_every_line_of_a_table_fits_and_every_word_of_it_is_whole(grid: tuple[list[str], list[list[str]]]) -> None:
    columns, rows = grid
    head, body = table(columns, rows, WIDTH)
    assert all(len(line) <= WIDTH for line in head + body)
    shown = " ".join(head + body).split()
    for row in rows:
        for cell in row:
            assert set(cell.split()) <= set(shown)


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=200), width=st.integers(4, 40))
def test_wrapped_text_fits_and_loses_nothing(text: str, width: int) -> None:
    lines = wrapped(printable(text), width)
    assert all(cells(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(printable(text).split())


def test_a_table_that_fits_is_a_line_a_row() -> None:
    assert table(["a", "name"], [["1", "x y"], ["22", ""]], WIDTH) == (["a   name"], ["1   x y", "22"])


def test_a_long_sentence_goes_on_in_its_own_column() -> None:
    head, body = table(["move", "why"], [["7", "many words " * 10]], 60)
    assert head == ["move  why"]
    assert body[0].startswith("7     many words")
    assert all(line.startswith(("      many", "      words")) for line in body[1:])


def test_a_lane_breaks_behind_its_tenant() -> None:
    lane = f"{'t' * 40}/{'u' * 30}"
    _, body = table(["lane", "why", "n"], [[lane, "w" * 20, "3"]], WIDTH)
    assert [line.split()[0] for line in body] == ["t" * 40 + "/", "u" * 30]


def test_what_fits_no_table_is_told_row_by_row() -> None:
    version, why = "v" * 50, "because " * 40
    head, body = table(["version", "other", "why"], [[version, version, why], ["x", "y", "z"]], WIDTH)
    assert head == []
    assert body[:2] == [f"version  {version}", f"other    {version}"]
    assert body[-4:] == ["", "version  x", "other    y", "why      z"]


def test_a_table_takes_all_of_the_width_and_no_cell_more() -> None:
    assert table(["a", "b"], [["x" * 39, "y" * 39]], WIDTH)[1] == [f"{'x' * 39}  {'y' * 39}"]
    assert table(["a", "b"], [["x" * 40, "y" * 39]], WIDTH) == ([], [f"a  {'x' * 40}", f"b  {'y' * 39}"])


def test_a_name_that_takes_half_the_line_stands_above_its_value() -> None:
    lines = fields([("gateway " + "g" * 50, "serves nothing: cold"), ("to", "v")], WIDTH)
    assert lines == ["gateway " + "g" * 50, "  serves nothing: cold", "to  v"]


def test_a_path_that_is_longer_than_a_line_breaks_behind_a_mark() -> None:
    path = "/".join(["folder_of_things"] * 8)
    parts = wrapped(path, 40)
    assert "".join(parts) == path
    assert all(re.search(r"[/_]$", part) for part in parts[:-1])


def test_a_lane_that_is_longer_than_a_line_breaks_at_its_slash_first() -> None:
    assert wrapped(f"moves of {'t' * 40}/use-case-{'u' * 31}", WIDTH) == [
        "moves of",
        "t" * 40 + "/",
        "use-case-" + "u" * 31,
    ]
    assert wrapped("x" * 100, WIDTH) == ["x" * 80, "x" * 20]


def test_wide_letters_take_two_cells_and_accents_none() -> None:
    assert (cells("ab"), cells("日本"), cells("e\u0301")) == (2, 4, 1)
    head, body = table(["label", "n"], [["日本", "1"], ["ab", "2"]], WIDTH)
    assert (head, body) == (["label  n"], ["日本   1", "ab     2"])


def test_what_would_move_the_cursor_is_shown_as_a_number() -> None:
    assert printable("a\x1b[2Jb\nc\u202e") == "a\\x1b[2Jb\nc\\u202e"
