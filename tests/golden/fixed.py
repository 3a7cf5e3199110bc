"""Fixed keys, clock and chance, so that two runs of the writer write the same bytes.

THE KEYS ARE TEST KEYS: everybody has them, and nothing but these files was ever signed or sealed with them.
"""

import hashlib
import secrets
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from random import Random
from unittest.mock import patch

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

NOW_S = 1_790_000_000.0  # 2026-09-21
OWNER = "golden-owner"


class _Clock:
    """Stands for the module `time` where the wall clock is read."""

    @staticmethod
    def time() -> float:
        return NOW_S


class _Keys:
    """Stands for the class of private keys where they are made: a key for each name in its turn."""

    def __init__(self) -> None:
        self._made = 0

    def generate(self) -> Ed25519PrivateKey:
        self._made += 1
        return self.from_private_bytes(_bytes(f"test key {self._made}", 32))

    @staticmethod
    def from_private_bytes(data: bytes) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(data)


class _Chance(threading.local):
    """A seed for each thread: what one draws hangs on no other's turn."""

    def __init__(self) -> None:
        main = threading.current_thread() is threading.main_thread()
        self._dice = Random("golden" if main else "golden thread")

    def bytes_of(self, count: int) -> bytes:
        """As `secrets.token_bytes`."""
        return self._dice.randbytes(count)

    def uuid4(self) -> uuid.UUID:
        """As `uuid.uuid4`."""
        return uuid.UUID(int=self._dice.getrandbits(128), version=4)


def _bytes(purpose: str, count: int) -> bytes:
    return hashlib.sha512(f"golden/{purpose}".encode()).digest()[:count]


@contextmanager
def fixed_keys() -> Iterator[None]:
    """Keys and data secret are the same each time they are made."""
    with ExitStack() as stack:
        stack.enter_context(patch("store.registry.signing.Ed25519PrivateKey", _Keys()))
        stack.enter_context(patch.object(secrets, "token_hex", lambda count: _bytes("test secret", count).hex()))
        yield


@contextmanager
def fixed() -> Iterator[None]:
    """The wall clock stands still, and what is drawn at random comes from a seed."""
    chance = _Chance()
    with ExitStack() as stack:
        stack.enter_context(patch("store.event.time", _Clock))
        stack.enter_context(patch.object(uuid, "uuid4", chance.uuid4))
        stack.enter_context(patch.object(secrets, "token_bytes", chance.bytes_of))
        yield
