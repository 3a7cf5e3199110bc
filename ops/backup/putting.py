"""Where the parts of a backup go: each is staged on the disk of its place, and gets its name by a rename."""

import errno
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import redis

from ops.backup.archive import Unpacked
from ops.backup.believed import Believed
from ops.backup.records import KEYS, REDIS, REGISTRY, SITE, STATE
from ops.backup.redis_part import patterns_of
from ops.backup.registry import filled, link_versions, places_of
from ops.backup.site_files import state_files
from ops.exits import RefusedError
from ops.site import Site
from store.copies.put import Putting
from store.copies.records import read_keys
from store.registry.files.durable import clear_away, make_folder, sync_folder

_STAGED: Final = ".restoring"
_NAMED: Final = 3


@dataclass(kw_only=True)
class Target:
    """An installation that a backup is put into."""

    unpacked: Unpacked
    site: Site  # whose Redis answers
    client: redis.Redis
    settings_file: Path
    keys: int = 0  # of Redis, staged
    _putting: Putting = field(init=False)

    def __post_init__(self) -> None:
        """Nothing is changed yet."""
        self._putting = Putting(self.client, patterns_of(self.site.use_cases, self.unpacked.manifest.log))

    @property
    def _root(self) -> Path:
        return self.site.registry_root

    @property
    def _state_dir(self) -> Path:
        return self.site.settings.state_dir

    @property
    def _places(self) -> list[str]:
        return places_of(self.site.settings.lanes)

    def there(self) -> list[str]:
        """What lies there already, for a person."""
        found = [f"{place} holds files" for place in filled(self._root, self._places)]
        if kept := state_files(self._state_dir):
            found.append(f"{', '.join(map(str, list(kept.values())[:_NAMED]))} (of {len(kept)} files in state_dir)")
        if names := self._putting.present():
            found.append(f"Redis holds {len(names)} keys of these lanes, such as {', '.join(names[:_NAMED])}")
        return found

    def clear(self) -> None:
        """Remove what was staged and got no place."""
        clear_away(self._root / _STAGED)
        clear_away(self._state_dir / _STAGED)

    def stage(self) -> None:
        """Bring every part beside its place."""
        self.clear()
        registry, state = self._root / _STAGED, self._state_dir / _STAGED
        make_folder(registry, mode=0o700)
        make_folder(state, mode=0o700)
        for member in self.unpacked.members(REGISTRY):
            _carry(self.unpacked.path(member), registry / member.removeprefix(REGISTRY), mode=0o444)
        for member in self.unpacked.members(STATE):
            _carry(self.unpacked.path(member), state / member.removeprefix(STATE), mode=0o600)
        link_versions(registry)
        self._putting.clear()
        with self.unpacked.path(REDIS).open("rb") as file:
            self.keys = self._putting.stage(read_keys(file))
        os.sync()  # all of it at once: it is thousands of files

    def move_aside(self, stamp: str) -> list[str]:
        """Move aside what lies there; where it is now."""
        moved: list[str] = []
        for place in filled(self._root, self._places):
            aside = self._root / f".before-{stamp}" / place.relative_to(self._root)
            make_folder(aside.parent, mode=0o700)
            place.rename(aside)
            moved.append(str(aside))
        for path in state_files(self._state_dir).values():
            aside = self._state_dir / f"before-{stamp}" / path.relative_to(self._state_dir)
            make_folder(aside.parent, mode=0o700)
            path.rename(aside)
            moved.append(str(aside))
        if names := self._putting.present():
            self._putting.move_aside(f"{{before-{stamp}}}:")
            moved.append(f"{len(names)} keys of Redis, whose names begin with {{before-{stamp}}}: now")
        return moved

    def place(self, believed: Believed, *, again: bool) -> None:
        """Give every part its name.

        Args:
            believed: what of settings and keys goes where.
            again: over what an earlier try has put there.

        Raises:
            RefusedError: somebody else has written to Redis meanwhile.
        """
        for member, path in believed.files.items():
            _carry(self.unpacked.path(member), path, mode=0o644 if _is_public(member) else 0o600)
            sync_folder(path.parent)
        staged = self._root / _STAGED
        for place in self._places:
            if (staged / place).is_dir():
                clear_away(self._root / place)
                make_folder((self._root / place).parent)
                (staged / place).rename(self._root / place)
                sync_folder((self._root / place).parent)
        staged = self._state_dir / _STAGED
        for path in sorted(path for path in staged.rglob("*") if path.is_file()):
            target = self._state_dir / path.relative_to(staged)
            make_folder(target.parent, mode=0o700)
            path.replace(target)
            sync_folder(target.parent)
        if (name := self._putting.swap(drop=again)) is not None:
            message = f"Redis holds {name} now: somebody works on these lanes; stop that, and restore again"
            raise RefusedError(message)


def _is_public(member: str) -> bool:
    return (member.startswith(SITE) and not member.endswith(".toml")) or member.startswith(f"{KEYS}trusted/")


def _carry(source: Path, target: Path, *, mode: int) -> None:
    """Move a file, also to another disk."""
    make_folder(target.parent, mode=0o700)
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        aside = target.with_name(f".{target.name}.new")
        shutil.copyfile(source, aside)
        aside.replace(target)
    target.chmod(mode)
