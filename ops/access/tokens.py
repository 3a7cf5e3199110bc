"""Tokens of the admin port: who holds one, what it opens, and how it is told from others.

A token is 256 bits of chance, so one SHA-256 of it is safe to keep and needs no salt. Of each person two are valid at
most: the new one, and the one before it until it is revoked or the next one is made.
"""

import hashlib
import hmac
import secrets
from pathlib import Path
from typing import Annotated, Final, Literal, get_args

import msgspec

from store.errors import SettingsError
from store.registry.files import durable
from store.registry.signing import check_key_name

Role = Literal["view", "operate", "admin"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)  # each may do what the ones before it may

VALID_EACH: Final = 2
_PREFIX: Final = "ust_"  # by which a leaked one is recognised
_BYTES: Final = 32


class Token(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One token, as it is kept."""

    name: str  # of the person
    role: Role
    sha256: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    made_s: float  # Unix seconds


def allows(role: Role | None, wanted: Role) -> bool:
    """Whether a role may do what another one is for; None: nobody in particular."""
    return role is not None and ROLES.index(role) >= ROLES.index(wanted)


def read_tokens(path: Path) -> list[Token]:
    """The tokens that are valid, oldest first; none where there is no file.

    Raises:
        SettingsError: it is readable by others, or no list of tokens.
    """
    try:
        data = durable.read_private(path, "keys.tokens:")
    except FileNotFoundError:
        return []
    except OSError as error:
        message = f"keys.tokens: {path}: {error.strerror}"
        raise SettingsError(message) from error
    try:
        return msgspec.json.decode(data, type=list[Token])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        message = f"keys.tokens: {path} is no list of tokens: {error}; move it away, and make them anew"
        raise SettingsError(message) from error


def holder_of(shown: str, tokens: list[Token]) -> Token | None:
    """Whose token this is. All are compared, each in constant time: how long it took tells nothing."""
    digest, found = _digest(shown), None
    for token in tokens:
        if hmac.compare_digest(token.sha256, digest):
            found = token
    return found


def add_token(path: Path, name: str, role: Role, now_s: float) -> str:
    """Make a token for a person and keep its hash; the token itself, which nobody can show again.

    Of the person's others the newest stays valid, whatever its role.

    Raises:
        SettingsError: the name is none, or the file is as `read_tokens` refuses it, or cannot be written.
    """
    check_key_name(name)
    shown = f"{_PREFIX}{secrets.token_urlsafe(_BYTES)}"
    tokens = read_tokens(path)
    own = [token for token in tokens if token.name == name]
    ended = own[: max(0, len(own) - VALID_EACH + 1)]
    _write(
        path,
        [
            *(token for token in tokens if token not in ended),
            Token(name=name, role=role, sha256=_digest(shown), made_s=now_s),
        ],
    )
    return shown


def revoke_tokens(path: Path, name: str, *, older: bool) -> int:
    """End a person's tokens, or all but the newest; how many were ended. Errors are those of `read_tokens`."""
    tokens = read_tokens(path)
    own = [token for token in tokens if token.name == name]
    ended = own[:-1] if older else own
    if ended:
        _write(path, [token for token in tokens if token not in ended])
    return len(ended)


def _digest(shown: str) -> str:
    return hashlib.sha256(shown.encode("utf-8", "surrogatepass")).hexdigest()


def _write(path: Path, tokens: list[Token]) -> None:
    try:
        durable.replace(path, msgspec.json.format(msgspec.json.encode(tokens), indent=1) + b"\n", mode=0o600)
    except OSError as error:
        message = f"keys.tokens: {path} cannot be written: {error.strerror}"
        raise SettingsError(message) from error
