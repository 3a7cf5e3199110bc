"""A golden installation put back as a whole: folders, Redis, versions, moves."""

import json
import re
from pathlib import Path
from shutil import copyfile, copytree
from typing import Any, Final

import redis
from typer.testing import CliRunner

from ops.cli.app import app
from tests.golden import scene
from tests.golden.stored import load, read_json, unpack_registry

_COMMANDS: Final = {
    "status": ("status",),
    "history": ("history",),
    "verify": ("verify",),
    "show": ("show", "{champion}"),
    "dlq-list": ("dlq", "list"),
    "keys-list": ("keys", "list"),
}
_VOLATILE: Final = {"warnings", "today", "month"}  # of this machine's Redis and folders, and of this day


def put_back(golden: Path, folder: Path) -> None:
    """Put what `init` had made into an empty folder: settings, prompts, secret and keys."""
    copytree(golden / "site", folder)
    (folder / "dot-gitignore").rename(folder / ".gitignore")
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o700 if path.is_dir() else 0o600)  # git keeps no modes


def installed(golden: Path, folder: Path, redis_url: str) -> Path:
    """Put a golden installation into an empty folder and an empty Redis; its settings file."""
    put_back(golden, folder)
    state = folder / "state"
    unpack_registry(golden / "registry", state / "registry")
    copytree(golden / "run", state / "run")
    copytree(golden / "spool", state / "spool")
    encoder = folder / "encoder"
    encoder.mkdir()
    of_head = min(path.parent for path in (state / "registry").rglob("encoder/tokenizer.json"))
    for path in of_head.iterdir():
        copyfile(path, encoder / path.name)
    with redis.Redis.from_url(redis_url) as client:
        load(client, read_json(golden / "redis.json"))
    scene.in_use(folder, redis_url, encoder)
    return folder / "understudy.toml"


def call(settings: Path, *arguments: str, code: int = 0) -> Any:
    """A command's answer in JSON."""
    found = CliRunner().invoke(app, [*arguments, "-c", str(settings), "-o", "json"])
    assert found.exit_code == code, found.output
    return json.loads(found.stdout)


def cli_answers(settings: Path) -> dict[str, Any]:
    """What scripts read, by command; what belongs to this machine is left out."""
    champion = call(settings, "status")["lanes"][0]["champion"]
    return {
        name: _steady(call(settings, *(part.replace("{champion}", champion) for part in command)), settings.parent)
        for name, command in _COMMANDS.items()
    }


def _steady(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {name: _steady(one, folder) for name, one in value.items() if name not in _VOLATILE}
    if isinstance(value, list):
        return [_steady(one, folder) for one in value]
    return re.sub(re.escape(str(folder)), "{site}", value) if isinstance(value, str) else value
