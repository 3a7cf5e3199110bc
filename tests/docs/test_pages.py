"""Every link, anchor, file, setting, metric and target that a page names is there; every page can be found."""

import importlib.util
import re
from collections.abc import Callable, Collection
from pathlib import Path

from ops.settings import Settings
from tests.docs.made.metrics import metrics_page
from tests.docs.pages import PAGES, ROOT, anchors_of, blocks_of, code_of, links_of, prose_of, text_of, typed_in
from tests.ops.test_every_setting import leaves

MOST_README_LINES = 249
KEYS = set(leaves(Settings))
TABLES = {key.rpartition(".")[0] for key in KEYS} | {"lanes"}
PLACES = ("store", "stream", "trainer", "serve", "ops", "tests", "deploy", "docs")
METRICS = set(re.findall(r"`(understudy_\w+)`", metrics_page()))


def of_pages(faults: Callable[[str], Collection[str]]) -> dict[str, Collection[str]]:
    """What is wrong, page by page, of pages with which something is."""
    return {page: found for page in PAGES if (found := faults(page))}


def test_the_readme_is_read_in_ten_minutes() -> None:
    assert len(text_of("README.md").splitlines()) <= MOST_README_LINES


def test_every_link_leads_somewhere() -> None:
    assert of_pages(_dead_links) == {}


def _dead_links(page: str) -> list[str]:
    return [link for link in links_of(page) if not link.startswith("https://") and not _leads(page, link)]


def _leads(page: str, link: str) -> bool:
    name, _, anchor = link.partition("#")
    target = (ROOT / page).parent / name if name else ROOT / page
    inside = target.resolve().relative_to(ROOT.resolve()).as_posix()
    return target.exists() and (not anchor or anchor in anchors_of(inside))


def test_every_page_is_reached_from_the_readme() -> None:
    reached, waiting = set(), ["README.md"]
    while waiting:
        page = waiting.pop()
        if page not in reached:
            reached.add(page)
            targets = [((ROOT / page).parent / link.partition("#")[0]).resolve() for link in links_of(page)]
            waiting += [one.relative_to(ROOT.resolve()).as_posix() for one in targets if one.suffix == ".md"]
    assert set(PAGES) - reached == set()


def test_every_file_that_is_named_exists() -> None:
    assert of_pages(_absent_files) == {}


def _absent_files(page: str) -> list[str]:
    named = [code for code in code_of(page) if re.fullmatch(rf"({'|'.join(PLACES)})/[\w./*{{}},-]+", code)]
    return [name for name in named if not _there(name)]


def _there(name: str) -> bool:
    group = re.search(r"\{([^}]*)\}", name)
    names = [name.replace(group[0], one) for one in group[1].split(",")] if group else [name]
    return all(any(ROOT.glob(one.rstrip("/"))) for one in names)


def test_every_setting_that_is_named_exists() -> None:
    assert of_pages(_absent_settings) == {}


def _absent_settings(page: str) -> list[str]:
    named = [code for code in code_of(page) if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", code)]
    ours = [name for name in named if name.partition(".")[0] in TABLES]
    return [name for name in ours if name not in KEYS | TABLES and not _is_no_key(name)]


def _is_no_key(name: str) -> bool:
    """A module, or a file of the installation."""
    return Path(name).suffix in {".md", ".json", ".py", ".yml"} or (ROOT / name.replace(".", "/")).exists()


def test_every_variable_that_is_named_sets_a_key() -> None:
    keys = {key.replace(".", "__").upper() for key in KEYS | TABLES} | {"SETTINGS"}
    assert of_pages(lambda page: set(re.findall(r"\bUNDERSTUDY_([A-Z_]+)", text_of(page))) - keys) == {}


def test_every_metric_that_is_named_is_written() -> None:
    written = METRICS | {f"{name}_{part}" for name in METRICS for part in ("bucket", "sum", "count")}
    assert of_pages(lambda page: set(re.findall(r"\bunderstudy_[a-z_]+", text_of(page))) - written) == {}


def test_every_target_of_make_exists_and_takes_the_variables() -> None:
    assert of_pages(_absent_targets) == {}


def _absent_targets(page: str) -> list[str]:
    makefile = text_of("Makefile")
    absent = []
    for line in (*code_of(page), *typed_in(page)):
        program, _, rest = line.split("#")[0].strip().partition(" ")
        if program != "make" or not rest:
            continue
        target, *words = rest.split()
        variables = [word.partition("=")[0] for word in words if "=" in word]
        there = re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE)
        if not there or not all(f"$({name})" in makefile for name in variables):
            absent.append(line)
    return absent


def test_every_module_that_is_run_exists_and_takes_the_options() -> None:
    assert of_pages(_absent_modules) == {}


def _absent_modules(page: str) -> list[str]:
    text = " ".join(text_of(page).split())
    absent = []
    for module, rest in re.findall(r"python -m ((?:ops|tests)[\w.]+)([^`]*)`", text):
        found = importlib.util.find_spec(module)
        source = "" if found is None or found.origin is None else Path(found.origin).read_text("utf-8")
        options = re.findall(r"--[a-z-]+", rest)
        if not source or any(f'"{option}"' not in source for option in options):
            absent.append(f"{module}{rest}")
    return absent


def test_a_page_has_one_title_and_its_blocks_name_their_language() -> None:
    assert of_pages(lambda page: re.findall(r"^# .*", prose_of(page), re.MULTILINE)[1:]) == {}
    assert of_pages(lambda page: blocks_of(page, "")) == {}


def test_every_error_of_the_gateway_is_in_the_table_and_no_other() -> None:
    sources = "\n".join(path.read_text("utf-8") for path in (ROOT / "serve").rglob("*.py"))
    raised = set(re.findall(r'ApiError\((\d{3}), "(\w+)"', sources))
    told = set()
    for status, codes in re.findall(r"^\| (\d{3}) \| ([^|]+) \|", text_of("docs/reference/http.md"), re.MULTILINE):
        told |= {(status, code) for code in re.findall(r"`(\w+)`", codes)}
    assert raised - told == set()
    assert {code for _, code in told if f'"{code}"' not in sources} == set()
