"""What the tests of backups do on the machine that was, and on an empty one."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ops.cli.app import app
from tests.ops.stand import Stand

URL = "UNDERSTUDY_REDIS__URL"


def call(*arguments: str | Path, code: int = 0, config: Path | None = None) -> Any:
    """A command's answer in JSON, or what it says on its way out."""
    settings = () if config is None else ("-c", str(config))
    done = CliRunner().invoke(app, [*map(str, arguments), *settings, "-o", "json"])
    assert done.exit_code == code, done.output
    return json.loads(done.stdout) if done.stdout.startswith("{") else done.output


@contextmanager
def old(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """On the machine that there was before."""
    with monkeypatch.context() as context:
        context.delenv(URL, raising=False)
        yield


def take(stand: Stand, to: Path, monkeypatch: pytest.MonkeyPatch, *options: str, code: int = 0) -> Any:
    with old(monkeypatch):
        return call("backup", to, *options, config=stand.path, code=code)


def keys_to(stand: Stand, settings: Path) -> None:
    """Bring keys and data secret, as a person does who kept them apart."""
    settings.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(stand.path.parent / "keys", settings.parent / "keys")
    shutil.copy2(stand.path.parent / "data.secret", settings.parent / "data.secret")
