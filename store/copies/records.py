"""Keys of Redis as records in a file: typed, so that any Redis of any release takes them back.

Each is its length (4 bytes, big-endian), then msgpack. A long stream is several records of one name, in order.
"""

from collections.abc import Iterator
from typing import BinaryIO, Final, Literal

import msgspec

from store.errors import DamagedCopyError

Kind = Literal["string", "hash", "list", "set", "zset", "stream"]
_LENGTH_BYTES: Final = 4
_MOST_BYTES: Final = 1 << 30


class Key(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One key."""

    name: bytes
    kind: Kind
    parts: list[bytes]  # the value; fields and values; elements; members; members and scores; ids and packed fields
    expires_ms: int = 0  # Unix milliseconds; 0: never
    last_id: bytes = b""  # on the last record of a stream: what the next entry's id must be above

    @property
    def fields(self) -> dict[bytes, bytes]:
        """Of a hash, its fields."""
        return dict(zip(self.parts[::2], self.parts[1::2], strict=True))


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Key)


def write_key(file: BinaryIO, key: Key) -> None:
    """Append a record."""
    write_raw(file, _encoder.encode(key))


def write_raw(file: BinaryIO, record: bytes) -> None:
    """Append a record as `read_raw` gave it."""
    file.write(len(record).to_bytes(_LENGTH_BYTES, "big") + record)


def read_raw(file: BinaryIO) -> bytes | None:
    """The next record; None at the end.

    Raises:
        DamagedCopyError: the file ends within it.
    """
    head = file.read(_LENGTH_BYTES)
    if not head:
        return None
    length = int.from_bytes(head, "big")
    record = file.read(length) if len(head) == _LENGTH_BYTES and length <= _MOST_BYTES else b""
    if not record or len(record) != length:
        message = "the copy of Redis ends in the middle of a record"
        raise DamagedCopyError(message)
    return record


def read_keys(file: BinaryIO) -> Iterator[Key]:
    """Every record.

    Raises:
        DamagedCopyError: one of them is none.
    """
    while (record := read_raw(file)) is not None:
        try:
            yield _decoder.decode(record)
        except msgspec.MsgspecError as error:
            message = f"a record of the copy of Redis cannot be read: {error}"
            raise DamagedCopyError(message) from error
