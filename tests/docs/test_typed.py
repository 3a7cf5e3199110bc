"""Each command line of the pages is typed, on a prepared site or at a gateway of fakes, or listed with the reason."""

import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.docs.covered import LEFT, REFERENCE, left, lines, way
from tests.docs.newcomer import needs
from tests.docs.pages import PAGES
from tests.docs.prepared import prepared
from tests.serve.openapi.lanes import listening

NOTHING_RUNS, REFUSED = 3, 4
ENDS = {
    "status": (NOTHING_RUNS, "nothing answers"),  # as the tutorials say
    "verify --recompute": (REFUSED, "never judged"),
    "restore /var/backups(?!.*--dry-run)": (
        REFUSED,
        "--force moves it aside",
    ),  # as the page says of what is there already
    "tokens revoke ada --old": (REFUSED, "no older token"),
    "ingest skip": (REFUSED, "nothing of support stands still"),
}
"""What does not end with 0 on a sound site, and what it says."""
OTHERS = [page for page in PAGES if page != REFERENCE]


def test_each_command_is_run_or_listed_with_a_reason() -> None:
    assert [where for where in lines() if way(*where) is None] == []


def test_a_command_that_nobody_runs_or_lists_is_found() -> None:
    assert way("docs/how-to/deploy.md", "kubectl apply -k deploy/kubernetes/base") is None
    assert way("docs/how-to/operate.md", "understudy status") == "site"
    assert way("docs/tutorials/classify.md", "understudy init desk") == "as it stands"


def test_nothing_is_listed_that_no_page_shows() -> None:
    shown = {left(line) for page, line in lines() if way(page, line) == "left"}
    assert set(LEFT) - shown == set()


def correct(export: Path) -> None:
    """Edit the first line's answer, as the page tells its reader to."""
    first, *rest = [json.loads(line) for line in export.read_text("utf-8").splitlines()]
    edited = [{**first, "answer": "other"}, *rest]
    export.write_text("".join(json.dumps(one) + "\n" for one in edited), "utf-8")


@pytest.mark.timeout(900)  # seconds, and a slow machine
@pytest.mark.parametrize("pages", [[REFERENCE], OTHERS], ids=["reference", "others"])
def test_the_commands_do_on_a_site_what_their_pages_say(
    pages: Sequence[str], tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = {}
    with prepared(tmp_path, redis_url) as site:
        monkeypatch.chdir(site.folder)
        for page, line in lines():
            if page not in pages or way(page, line) != "site":
                continue
            code, says = next((end for start, end in ENDS.items() if re.search(f"understudy {start}", line)), (0, ""))
            done = site.types(line)
            if done.exit_code != code or says not in done.output:
                wrong[page, line] = (done.exit_code, done.output[-300:], done.exception)
            if "buffer export" in line:
                correct(site.folder / "support.jsonl")
    assert not wrong, json.dumps({" ".join(where): [str(one) for one in end] for where, end in wrong.items()}, indent=1)


def test_the_requests_are_answered(tmp_path: Path) -> None:
    needs("curl")
    asked = [line for page, line in lines() if way(page, line) == "curl"]
    assert asked
    with listening(tmp_path) as address:
        for line in asked:
            command = line.replace("curl -s", "curl -s --fail-with-body").replace("localhost:8080", address)
            done = subprocess.run(["bash", "-ec", command], capture_output=True, text=True, check=False)
            assert done.returncode == 0, line + done.stdout + done.stderr
            assert '"served_by":' in done.stdout
