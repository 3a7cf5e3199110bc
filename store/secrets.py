"""Keys derived from the one data secret: lanes, redaction, subjects, audits and dead letters each have their own."""

import hmac
import secrets
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from store.errors import SettingsError
from store.event import Lane, TaskInput, canonical_input
from store.registry.files.durable import create, read_private
from store.tasks.rules import TaskRules

SECRET_BYTES = 32
ITEM_ID_HEX_DIGITS = 32
_SUBJECT = "subject:"


@dataclass(frozen=True, slots=True)
class DataSecret:
    """32 random bytes; whoever holds them can tell which item a text is, and read dead letters."""

    value: bytes = field(repr=False)

    @classmethod
    def load(cls, path: Path) -> "DataSecret":
        """Read the secret that `understudy init` made.

        Raises:
            SettingsError: the file is missing, readable by others, or not 64 hex digits.
        """
        try:
            text = read_private(path, "data secret").decode("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            message = f"data secret {path}: {error}; `understudy init` makes one"
            raise SettingsError(message) from error
        try:
            value = bytes.fromhex(text)
        except ValueError:
            value = b""
        if len(value) != SECRET_BYTES:
            message = f"data secret {path} is not {2 * SECRET_BYTES} hex digits"
            raise SettingsError(message)
        return cls(value)

    @staticmethod
    def create(path: Path) -> None:
        """Write a new secret, mode 0600, durably; FileExistsError where there is one already."""
        create(path, f"{secrets.token_hex(SECRET_BYTES)}\n".encode())

    def derive(self, purpose: str) -> bytes:
        """A 32-byte key for one purpose (HKDF-SHA256, RFC 5869)."""
        return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"understudy/1/" + purpose.encode()).derive(
            self.value
        )

    def lane_key(self, lane: Lane) -> bytes:
        """The key of a lane's item ids: equal texts of two lanes have unrelated ids."""
        return self.derive(f"lane/{lane}")

    def redaction_key(self, lane: Lane) -> bytes:
        """The key of a lane's redaction tokens."""
        return self.derive(f"redaction/{lane}")

    def subject_key(self, lane: Lane) -> bytes:
        """The key of a lane's `subject_token`s."""
        return self.derive(f"subject/{lane}")

    def audit_key(self, lane: Lane) -> bytes:
        """The key of the draw that decides which of a lane's questions are audited."""
        return self.derive(f"audit/{lane}")

    def dead_letter_key(self, day: date) -> bytes:
        """The AES-256-GCM key of one day's dead letters."""
        return self.derive(f"dead-letter/{day.isoformat()}")


def item_id(lane_key: bytes, rules: TaskRules, value: TaskInput) -> str:
    """HMAC-SHA256 of the canonical input under the lane's key, 128 bits as 32 hex digits."""
    identity = canonical_input(rules.task, rules.parts(value))
    return hmac.digest(lane_key, identity, "sha256").hex()[:ITEM_ID_HEX_DIGITS]


def subject_token(subject_key: bytes, subject: str) -> str:
    """What stands for a person in a lane's log and buffer: `subject:` and 40 hex digits. Idempotent.

    Whoever holds the data secret finds a person's records, to erase them, by
    `subject_token(DataSecret.load(path).subject_key(lane), subject)`, where `subject` is `user` as the client spelt it.
    The last eight digits are keyed, too, so that no text of a client's passes for a token.
    """
    if subject.startswith(_SUBJECT) and _sealed_subject(subject_key, subject[:-8]) == subject:
        return subject
    name = hmac.digest(subject_key, b"name/" + subject.encode(), "sha256").hex()[:32]
    return _sealed_subject(subject_key, f"{_SUBJECT}{name}")


def _sealed_subject(subject_key: bytes, name: str) -> str:
    return name + hmac.digest(subject_key, b"seal/" + name.encode(), "sha256").hex()[:8]


def unit_hash(salt: str, identifier: str) -> float:
    """A number in [0, 1) that is a function of (salt, id) alone: the randomness of bottom-k and of the splits."""
    digest = hmac.digest(salt.encode(), identifier.encode(), "sha256")
    return (int.from_bytes(digest[:8], "big") >> 11) / (1 << 53)
