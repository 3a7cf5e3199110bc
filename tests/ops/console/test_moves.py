"""Moves by the console: first what would happen, then a signed move with who and why, while Redis is away too."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.console import moves
from store.registry.moves import fold
from tests.ops.console.shown import Shown, showing
from tests.ops.console.test_pages import text_of
from tests.ops.sites import LANE, make_site, open_site, publish
from tests.store.drafts import make_draft, make_manifest

MOVE = f"/lane/{LANE}/move"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    settings = make_site(tmp_path_factory.mktemp("made") / "site")
    return settings, publish(settings, b"one", b"two")


@pytest.fixture
def versions(made: tuple[Path, list[str]]) -> list[str]:
    return made[1]


@pytest.fixture
def shown(made: tuple[Path, list[str]], tmp_path: Path) -> Iterator[Shown]:
    """Two versions that were promoted; neither Redis nor a gateway runs."""
    with showing(Path(shutil.copytree(made[0].parent, tmp_path / "site")) / made[0].name) as console:
        yield console


def last(shown: Shown) -> tuple[str, str | None, str, str]:
    move = shown.site.registry.moves(LANE).read()[-1]
    return move.kind, move.version, move.who, move.why


def test_a_rollback_is_shown_then_made_and_signed_with_who_and_why(shown: Shown, versions: list[str]) -> None:
    token = shown.token("operate")
    form = shown.get(f"{MOVE}?kind=rollback", token)
    assert form.status_code == 200
    assert versions[1] in form.text
    assert f'name="version" value="{versions[0]}"' in form.text
    assert last(shown)[0] == "promote", "looking moves nothing"
    answer = shown.post(MOVE, token, {"kind": "rollback", "version": versions[0], "why": "worse since <noon>"})
    assert answer.status_code == 200
    assert last(shown) == ("rollback", versions[0], "ada, by the console", "worse since <noon>")
    standing = fold(shown.site.registry.moves(LANE).read())
    assert (standing.champion, standing.pinned) == (versions[0], True)
    assert "move 3, rollback" in answer.text
    page = shown.get(f"/lane/{LANE}/history").text
    assert "worse since &lt;noon&gt;" in page, "what was kept is read anew"


def test_a_move_without_a_reason_is_not_made(shown: Shown, versions: list[str]) -> None:
    answer = shown.post(MOVE, shown.token("operate"), {"kind": "rollback", "version": versions[0], "why": "  "})
    assert "Say why" in answer.text
    assert last(shown)[0] == "promote"


def test_pause_and_resume(shown: Shown) -> None:
    token = shown.token("operate")
    for kind in ("pause", "resume"):
        assert shown.get(f"{MOVE}?kind={kind}", token).status_code == 200
        assert shown.post(MOVE, token, {"kind": kind, "why": "so"}).status_code == 200
        assert last(shown) == (kind, None, "ada, by the console", "so")
    again = shown.post(MOVE, token, {"kind": "resume", "why": "so"}, hx_target="move-body")
    assert again.status_code == 409
    assert "neither paused nor pinned" in text_of(again.text)
    assert "<html" not in again.text, "an answer in a dialog is no page"


def test_a_promotion_against_a_warning_needs_force_and_force_the_role_admin(shown: Shown) -> None:
    site = shown.site
    draft = make_draft(Path(site.registry_root).parent / "draft", head=b"three")
    weak = site.registry.versions(LANE).publish(draft, make_manifest(lane=LANE, policy=None), site.trainer_key())
    wanted = {"kind": "promote", "version": weak, "why": "checked by hand"}
    operate, admin = shown.token("operate", "ada"), shown.token("admin", "bob")
    assert "certifies no threshold" in text_of(shown.get(f"{MOVE}?kind=promote&version={weak}", operate).text)
    assert re.search(r"go main\" disabled", shown.get(f"{MOVE}?kind=promote&version={weak}", operate).text)
    assert shown.post(MOVE, operate, wanted).status_code == 409
    assert shown.post(MOVE, operate, {**wanted, "force": "yes"}).status_code == 403
    assert last(shown)[0] == "promote"
    assert last(shown)[1] != weak
    assert shown.post(MOVE, admin, wanted).status_code == 409
    assert shown.post(MOVE, admin, {**wanted, "force": "yes"}).status_code == 200
    assert last(shown) == ("promote", weak, "bob, by the console", "checked by hand")


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"kind": "pin"}, 409),
        ({}, 409),
        ({"kind": "promote", "version": "0" * 16}, 404),
        ({"kind": "promote", "version": "../.."}, 404),
        ({"kind": "promote"}, 404),
    ],
)
def test_what_is_no_move_is_refused(shown: Shown, form: dict[str, str], status: int) -> None:
    before = last(shown)
    assert shown.post(MOVE, shown.token("admin"), {**form, "why": "so"}).status_code == status
    assert last(shown) == before


def test_one_move_at_a_time(shown: Shown) -> None:
    with moves._one_at_a_time:
        answer = shown.post(MOVE, shown.token("admin"), {"kind": "pause", "why": "so"})
    assert answer.status_code == 409
    assert last(shown)[0] == "promote"


def test_without_the_operators_key_nothing_is_moved_and_the_page_says_what_is_missing(shown: Shown) -> None:
    shown.site.settings.keys.operator.unlink()
    answer = shown.post(MOVE, shown.token("admin"), {"kind": "pause", "why": "so"})
    assert answer.status_code == 503
    assert "keys.operator" in answer.text
    assert open_site(shown.site.settings.keys.trusted.parents[1] / "understudy.toml").registry.moves(LANE).read()
