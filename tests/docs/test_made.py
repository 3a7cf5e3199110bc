"""The pages that are made from the code are as the code says today, and say something of everything."""

from pathlib import Path

import pytest

from ops.cli.start.commands import COMMANDS
from ops.example import described
from ops.settings import Settings
from tests.docs.generate import PAGES, REFERENCE
from tests.docs.made.commands import all_commands
from tests.docs.made.files import described_files
from tests.docs.made.markdown import row
from tests.ops.test_every_setting import leaves

MOST_CHARACTERS = 120


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_make_docs_writes(name: str) -> None:
    assert (REFERENCE / name).read_text("utf-8") == PAGES[name](), "run `make docs`"


def test_every_command_and_every_setting_is_told() -> None:
    assert {name.split()[0] for name, _ in all_commands()} == set(COMMANDS)
    settings = (REFERENCE / "settings.md").read_text("utf-8")
    keys = {key.rpartition(".")[2] for key in leaves(Settings)}
    assert {key for key in keys if f"\n| `{key}` | " not in settings} == set()
    assert all(described(Settings)[name] for name in ("state_dir", "registry_dir"))


def test_every_file_says_in_one_line_what_it_is_for() -> None:
    said = described_files()
    assert [name for name, line in said.items() if not line or len(line) > MOST_CHARACTERS] == []
    assert len(said) > len(list((Path(__file__).parents[2] / "store").rglob("*.py")))


def test_a_cell_ends_where_it_ends() -> None:
    assert row(["a|b", "`c|d` <e>\nf"]) == "| a\\|b | `c\\|d` &lt;e> f |"
