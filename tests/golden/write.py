"""Write what this release stores: `python -m tests.golden.write [--versions]`, into `tests/golden/<release>/`.

The same twice writes the same bytes. Without `--versions` the two versions of the student are kept as they are; with it
they are fitted anew, and differ in the last digits on another machine. Look at `git diff` before you keep it: what
changed is what the releases before cannot be expected to read.
"""

import sys
import tempfile
from importlib.metadata import version as installed_version
from pathlib import Path
from shutil import copyfile, copytree, rmtree
from typing import Final

import redis

from store.buffer.server import private_redis
from tests.golden import aside, scene
from tests.golden.fixed import fixed
from tests.golden.ranking import write_ranking
from tests.golden.stored import dump, pack_registry, write_json
from tests.golden.whole import cli_answers, installed
from tests.tiny import tiny_encoder

HERE: Final = Path(__file__).parent
_SITE: Final = ("understudy.toml", "data.secret", "prompts", "keys", ".gitignore")


def release() -> Path:
    """The folder of this release."""
    return HERE / installed_version("understudy")


def write(target: Path, url: str, scratch: Path, kept: Path | None) -> None:
    """Write all of it into `target`, by an empty Redis; `kept` has the versions, where they are not fitted anew."""
    home = scratch / "site"
    with redis.Redis.from_url(url) as client, fixed():
        scene.initialised(home)
        for name in _SITE:
            put = copytree if (home / name).is_dir() else copyfile
            (target / "site").mkdir(parents=True, exist_ok=True)
            put(home / name, target / "site" / name.replace(".gitignore", "dot-gitignore"))
        site = scene.in_use(home, url, tiny_encoder(scratch / "encoder", layers=3))
        lines = scene.wire(site, scratch)
        write_json(target / "events.json", lines)
        write_json(target / "dead_letters.json", scene.dead_letters(site))
        scene.spool(site, target / "spool")
        scene.rulings(site)
        scene.streamed(site, client, scratch)
        aside.returns(client, site)
        aside.ranked_lists(client, site)
        aside.control(client, site)
        aside.letters(client, site)
        aside.signs(client)
        aside.cycles(client, target / "run")
        aside.money(client, target / "run")
        aside.budget(client, target / "run")
        aside.once(client, site)
        head, tuned = scene.versions(site, client, kept)
        scene.moves(site, head, tuned)
        aside.run_files(target / "run", head, tuned)
        write_ranking(target, kept)
        pack_registry(site.registry_root, target / "registry")
        write_json(target / "redis.json", dump(client))
        client.flushall()
        for name, answer in cli_answers(installed(target, scratch / "installed", url)).items():
            write_json(target / "cli" / f"{name}.json", answer)
        client.flushall()


def main() -> None:
    """Write in the place of what was there."""
    target = release()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        new, kept = scratch / "new", target if target.is_dir() and "--versions" not in sys.argv else None
        with private_redis(scratch / "redis") as url:
            write(new, url, scratch, kept)
        rmtree(target, ignore_errors=True)
        copytree(new, target)
    print(f"written: {target}")  # noqa: T201 - a program


if __name__ == "__main__":
    main()
