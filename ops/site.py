"""One installation as its settings describe it: its lanes, registry, keys and Redis. The log is in `ops.open_log`."""

import hashlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import redis

from ops.sections import LaneSection
from ops.settings import Settings
from ops.state.run_files import read_run_file, run_directory
from store.answers.rules import Rules
from store.answers.rulings import Ruling, rules_of
from store.buffer.connect import connect
from store.buffer.redis import RedisBuffer
from store.buffer.repair.letters import LetterBook
from store.buffer.server import url_of
from store.control import Control
from store.errors import SettingsError, StoreUnavailableError
from store.event import Lane, wall_clock_s
from store.letters.deciding import Deciding
from store.registry.files.folders import rulings_folder
from store.registry.registry import Registry
from store.registry.signing import SigningKey, TrustedKeys
from store.secrets import DataSecret

REDIS_RUN_NAME: Final = "redis"
_ANSWER_S: Final = 5.0


@contextmanager
def _named(key: str) -> Iterator[None]:
    """Put the settings' key before what is wrong with the file that it names."""
    try:
        yield
    except SettingsError as error:
        message = f"{key}: {error}"
        raise SettingsError(message) from error


@dataclass(frozen=True)
class Site:
    """Settings, and everything that is opened by them."""

    settings: Settings

    @cached_property
    def secret(self) -> DataSecret:
        """The data secret.

        Raises:
            SettingsError: the file is missing or readable by others.
        """
        with _named("keys.data_secret"):
            return DataSecret.load(self.settings.keys.data_secret)

    @cached_property
    def registry(self) -> Registry:
        """Versions and moves of every lane.

        Raises:
            SettingsError: there are no trusted keys.
        """
        with _named("keys.trusted"):
            return Registry(self.registry_root, TrustedKeys.load(self.settings.keys.trusted))

    def rulings(self, lane: Lane) -> list[Ruling]:
        """What people have decided about the lane's older answers.

        Raises:
            SettingsError, RegistryError: there are no trusted keys, or the rulings do not verify.
        """
        if not rulings_folder(self.registry_root, lane).is_dir():
            return []  # which needs no keys
        return self.registry.rulings(lane).read()

    def rules(self, lane: Lane) -> Rules:
        """How the lane's older labels are read by these decisions; errors as of `rulings`."""
        return rules_of(self.rulings(lane))

    @property
    def registry_root(self) -> Path:
        """The registry's folder."""
        return self.settings.registry_dir or self.settings.state_dir / "registry"

    @property
    def run_directory(self) -> Path:
        """Run files, locks, and the records of cycles and swaps."""
        return run_directory(self.settings.state_dir)

    @property
    def replica(self) -> str:
        """This gateway's name: the same after a restart, another for another state directory or machine."""
        place = hashlib.sha256(str(self.settings.state_dir.resolve()).encode()).hexdigest()[:4]
        return f"{socket.gethostname()}-{place}"

    def operator_key(self) -> SigningKey:
        """The key that signs an operator's moves.

        Raises:
            SettingsError: the file is missing or readable by others.
        """
        with _named("keys.operator"):
            return SigningKey.load(self.settings.keys.operator)

    def trainer_key(self) -> SigningKey:
        """The key that signs versions and the trainer's moves; errors are those of `operator_key`."""
        with _named("keys.trainer"):
            return SigningKey.load(self.settings.keys.trainer)

    def lane(self, name: str | None) -> LaneSection:
        """The lane that is meant: `tenant/use_case`, or the only one there is.

        Raises:
            SettingsError: there is none of that name, or more than one to choose from.
        """
        lanes = {str(section.lane): section for section in self.settings.lanes}
        known = ", ".join(sorted(lanes))
        if name is None and len(lanes) != 1:
            message = f"--lane: which one? {known}"
            raise SettingsError(message)
        found = next(iter(lanes.values())) if name is None else lanes.get(name)
        if found is None:
            message = f"--lane: no lane {name}; there is {known}"
            raise SettingsError(message)
        return found

    def lanes(self, name: str | None) -> list[LaneSection]:
        """The lane of that name, or all of them."""
        return [self.lane(name)] if name is not None else list(self.settings.lanes)

    @property
    def use_cases(self) -> list[str]:
        """Every use case; each has a topic."""
        return sorted({section.use_case for section in self.settings.lanes})

    def redis_url(self) -> str:
        """Where Redis is.

        Raises:
            StoreUnavailableError: it is the private one, and `run all` does not run.
        """
        if self.settings.redis.url:
            return self.settings.redis.url
        found = read_run_file(self.run_directory, REDIS_RUN_NAME)
        if found is None or found.url is None:
            message = (
                f"no private Redis runs on {self.settings.state_dir}: start `understudy run all`, or set redis.url"
            )
            raise StoreUnavailableError(message)
        return found.url

    def redis_url_to_be(self) -> str:
        """Where Redis is, or will be once there is one: for who works on without it."""
        try:
            return self.redis_url()
        except StoreUnavailableError:
            return url_of(self.settings.state_dir / REDIS_RUN_NAME)

    @contextmanager
    def redis_client(self, *, answer_s: float = _ANSWER_S, url: str | None = None) -> Iterator[redis.Redis]:
        """A client of the site's Redis; it may not answer, and says so within about twice `answer_s`.

        Raises:
            StoreUnavailableError: there is no private Redis, and no `url` to use nevertheless.
        """
        with connect(url or self.redis_url(), answer_s=answer_s) as client:
            yield client

    @contextmanager
    def control(self, *, answer_s: float = _ANSWER_S) -> Iterator[Control]:
        """The control plane; as `redis_client`."""
        with self.redis_client(answer_s=answer_s) as client:
            yield Control(client)

    def buffer(self, client: redis.Redis) -> RedisBuffer:
        """The replay buffer."""
        return RedisBuffer(client, self.settings.buffer.items_per_stratum)

    def deciding(self, client: redis.Redis, use_case: str) -> Deciding:
        """Whoever decides about a use case's dead letters: the operator, by the name of the key.

        Raises:
            SettingsError: there are no trusted keys.
        """
        chain = self.registry.letters(use_case)
        return Deciding(chain=chain, book=LetterBook(client), load_key=self.operator_key, now=wall_clock_s)
