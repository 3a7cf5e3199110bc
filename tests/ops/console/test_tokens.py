"""Tokens: a hash is kept, two of a person are valid, roles build on one another, and the commands say so."""

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ops.access.tokens import ROLES, add_token, allows, holder_of, read_tokens, revoke_tokens
from ops.cli.app import app
from store.errors import SettingsError
from tests.ops.sites import make_site


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


def holder(path: Path, shown: str) -> str | None:
    found = holder_of(shown, read_tokens(path))
    return None if found is None else f"{found.name}/{found.role}"


def test_a_token_is_found_by_its_hash_and_its_text_is_kept_nowhere(path: Path) -> None:
    shown = add_token(path, "ada", "operate", 1.0)
    assert holder(path, shown) == "ada/operate"
    assert holder(path, f"{shown}x") is holder(path, "") is holder(path, shown.upper()) is None
    kept = path.read_text()
    assert shown not in kept
    assert hashlib.sha256(shown.encode()).hexdigest() in kept
    assert path.stat().st_mode & 0o777 == 0o600


def test_of_a_person_two_are_valid_and_a_third_ends_the_oldest(path: Path) -> None:
    other = add_token(path, "bob", "view", 0.0)
    first, second, third = (add_token(path, "ada", "view", float(number)) for number in range(3))
    assert holder(path, first) is None
    assert holder(path, second) == holder(path, third) == "ada/view"
    assert revoke_tokens(path, "ada", older=True) == 1
    assert holder(path, second) is None
    assert holder(path, third) == "ada/view"
    assert revoke_tokens(path, "ada", older=False) == 1
    assert holder(path, third) is None
    assert revoke_tokens(path, "ada", older=False) == 0
    assert holder(path, other) == "bob/view"


def test_each_role_may_do_what_those_before_it_may() -> None:
    may = {role: [wanted for wanted in ROLES if allows(role, wanted)] for role in ROLES}
    assert may == {"view": ["view"], "operate": ["view", "operate"], "admin": ["view", "operate", "admin"]}
    assert not any(allows(None, wanted) for wanted in ROLES)


def test_every_token_is_compared_and_in_constant_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = [add_token(path, name, "view", 0.0) for name in ("ada", "bob", "cleo")]
    known, compared = read_tokens(path), list[str]()
    real = hmac.compare_digest

    def compare(one: str, other: str) -> bool:
        compared.append(one)
        return real(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for token in (*shown, "none"):
        compared.clear()
        holder_of(token, known)
        assert compared == [one.sha256 for one in known], "one that was found ends the search early"


def test_a_file_that_others_may_read_or_that_is_no_list_is_refused(path: Path) -> None:
    assert read_tokens(path) == []
    add_token(path, "ada", "view", 0.0)
    path.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        read_tokens(path)
    path.chmod(0o600)
    path.write_text('[{"name": "ada", "role": "king"}]')
    with pytest.raises(SettingsError, match=r"keys\.tokens.*move it away"):
        read_tokens(path)


def call(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.stdout


def test_the_commands_make_list_and_revoke_tokens(tmp_path: Path) -> None:
    config = ("--config", make_site(tmp_path / "site"))
    path = tmp_path / "site" / "keys" / "tokens.json"
    shown = call("tokens", "add", "ada", "--role", "admin", *config).splitlines()[0]
    assert holder(path, shown) == "ada/admin"
    made: Any = json.loads(call("tokens", "add", "ada", "-o", "json", *config))
    assert holder(path, made["token"]) == "ada/view"
    listed: Any = json.loads(call("tokens", "list", "-o", "json", *config))
    assert [(one["name"], one["role"]) for one in listed] == [("ada", "admin"), ("ada", "view")]
    assert shown not in call("tokens", "list", *config)
    call("tokens", "revoke", "ada", "--old", *config)
    assert holder(path, shown) is None
    call("tokens", "revoke", "ada", "--old", *config, code=4)
    call("tokens", "add", "ada", "--role", "king", *config, code=2)
    call("tokens", "add", "../ada", *config, code=2)
