"""Ed25519 keys and signatures (RFC 8032): who may publish a version and move the champion.

A private key is one JSON line, mode 0600; the public half lies beside it as `<path>.pub`. Whoever signs puts the
purpose before the bytes, so that a signature made for one kind of record never fits another.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from store.errors import BadSignatureError, SettingsError
from store.registry.files.durable import create, read_private

_PROBE: Final = b"understudy/probe/1\n"  # signed by nobody for anything else
PUBLIC_SUFFIX: Final = ".pub"
_KEY_ID_HEX_DIGITS: Final = 16

KeyHex = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
KeyName = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._@-]{0,62}\Z")]


class Signature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """64 bytes of Ed25519 and which key made them."""

    key_id: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{16}\Z")]  # of the public key's sha256
    value: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{128}\Z")]


class _PrivateFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: KeyName
    private: KeyHex


class _PublicFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: KeyName
    public: KeyHex


class PublicKey(msgspec.Struct, frozen=True, kw_only=True):
    """The public half of a key, as a trusted file holds it."""

    name: str
    key_id: str  # how signatures name it
    raw: bytes


class SigningKey:
    """A private key, held by the trainer or by an operator; gateways hold none."""

    def __init__(self, name: str, private: Ed25519PrivateKey) -> None:
        """Wrap a private key; `create` and `load` are the usual ways in."""
        self._private = private
        self._name = name
        self._key_id = _key_id(private.public_key().public_bytes_raw())

    @staticmethod
    def create(path: Path, name: str) -> "SigningKey":
        """Make a key: the private half at `path`, mode 0600, the public half at `<path>.pub`.

        Raises:
            FileExistsError: there is a key already; nothing is changed.
            SettingsError: the name is not of letters, digits and `. _ @ -`.
        """
        check_key_name(name)
        private = Ed25519PrivateKey.generate()
        secret = _PrivateFile(name=name, private=private.private_bytes_raw().hex())
        create(path, msgspec.json.encode(secret) + b"\n")
        key = SigningKey(name, private)
        key.write_public(public_path(path))
        return key

    @classmethod
    def load(cls, path: Path) -> "SigningKey":
        """Read a private key.

        Raises:
            SettingsError: the file is missing, readable by others, or no key.
        """
        try:
            data = read_private(path, "signing key")
        except OSError as error:
            message = f"signing key {path}: {error}; `understudy init` makes one"
            raise SettingsError(message) from error
        try:
            file = msgspec.json.decode(data, type=_PrivateFile)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            message = f"signing key {path} is not a key that `understudy init` made"
            raise SettingsError(message) from None  # the cause could quote the key
        return cls(file.name, Ed25519PrivateKey.from_private_bytes(bytes.fromhex(file.private)))

    @property
    def name(self) -> str:
        """Whose key it is, as the public half says too."""
        return self._name

    @property
    def key_id(self) -> str:
        """How signatures name it: 16 hex digits of the public half's sha256."""
        return self._key_id

    def write_public(self, path: Path) -> None:
        """Write the public half, for a folder of trusted keys; FileExistsError where there is a file already."""
        public = _PublicFile(name=self._name, public=self._private.public_key().public_bytes_raw().hex())
        create(path, msgspec.json.encode(public) + b"\n", mode=0o644)

    def sign(self, data: bytes) -> Signature:
        """Sign the bytes; the same key and bytes give the same signature."""
        return Signature(key_id=self._key_id, value=self._private.sign(data).hex())


class TrustedKeys:
    """The public keys whose versions are loaded and whose moves are followed."""

    def __init__(self, keys: Mapping[str, tuple[str, Ed25519PublicKey]]) -> None:
        """Trust exactly these: key id -> (name, key)."""
        self._keys = dict(keys)

    @classmethod
    def load(cls, directory: Path) -> "TrustedKeys":
        """Read every `*.pub` of a folder.

        Raises:
            SettingsError: the folder holds no key, a broken one, or one that anybody may overwrite.
        """
        keys: dict[str, tuple[str, Ed25519PublicKey]] = {}
        for path in sorted(directory.glob(f"*{PUBLIC_SUFFIX}")):
            public = read_public(path)
            keys[public.key_id] = (public.name, Ed25519PublicKey.from_public_bytes(public.raw))
        if not keys:
            message = f"no trusted keys: {directory} holds no *{PUBLIC_SUFFIX}; `understudy init` puts them there"
            raise SettingsError(message)
        return cls(keys)

    def check(self, key: SigningKey) -> None:
        """See that what a key signs counts here.

        Raises:
            BadSignatureError: it does not.
        """
        self.verify(_PROBE, key.sign(_PROBE))

    def verify(self, data: bytes, signature: Signature) -> str:
        """The name of the trusted key that signed the bytes.

        Raises:
            BadSignatureError: the key is not trusted, or it did not sign these bytes.
        """
        if signature.key_id not in self._keys:
            message = f"signed by key {signature.key_id}, which is not among the trusted keys"
            raise BadSignatureError(message)
        name, key = self._keys[signature.key_id]
        try:
            key.verify(bytes.fromhex(signature.value), data)
        except InvalidSignature as error:
            message = f"the signature is not one that key {name} made of these bytes"
            raise BadSignatureError(message) from error
        return name


def check_key_name(name: str) -> None:
    """See that a name may stand in a key, in a move and in a file's name.

    Raises:
        SettingsError: it is not of letters, digits and `. _ @ -`, or too long.
    """
    try:
        msgspec.convert(name, KeyName)
    except msgspec.ValidationError as error:
        message = f"key name {name!r}: letters, digits and . _ @ - only, 63 at most"
        raise SettingsError(message) from error


def public_path(path: Path) -> Path:
    """Where the public half of a key at `path` lies."""
    return path.with_name(path.name + PUBLIC_SUFFIX)


def read_public(path: Path) -> PublicKey:
    """Read a trusted file.

    Raises:
        SettingsError: it cannot be read, is no key, or anybody may overwrite it.
    """
    try:
        if path.stat().st_mode & 0o002:
            message = f"trusted key {path} can be overwritten by anybody: chmod o-w it"
            raise SettingsError(message)
        file = msgspec.json.decode(path.read_bytes(), type=_PublicFile)
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as error:
        message = f"trusted key {path} cannot be read: {error}"
        raise SettingsError(message) from error
    raw = bytes.fromhex(file.public)
    return PublicKey(name=file.name, key_id=_key_id(raw), raw=raw)


def _key_id(public: bytes) -> str:
    return hashlib.sha256(public).hexdigest()[:_KEY_ID_HEX_DIGITS]
