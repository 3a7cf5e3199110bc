"""An item as a stored value: checksum, event count, JSON.

The checksum is there because an overwritten byte in Redis' append-only file loads silently.
"""

import zlib
from collections.abc import Mapping
from typing import Final

import msgspec

from store.buffer.item import Item
from store.errors import CorruptItemError, DamagedItemError
from store.event import INPUTS, Task, TaskInput

CHECKSUM_BYTES: Final = 8
_HEAD_BYTES: Final = 16  # 8 hex digits of CRC-32 over all that follows, then 8 of the event count


class _Stored(Item, frozen=True, kw_only=True):
    """An item whose input is read in a second step: its task, a field beside it, says what it is."""

    input: msgspec.Raw  # type: ignore[assignment] # any input, as it lies there


_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(_Stored)
_inputs: Final[Mapping[Task, msgspec.json.Decoder[TaskInput]]] = {
    task: msgspec.json.Decoder(kind) for task, kind in INPUTS.items()
}


def encode_item(item: Item) -> bytes:
    """The stored value. The count stands apart so that the evicting script need not read JSON."""
    body = b"%08x" % item.count + _encoder.encode(item)
    return b"%08x" % zlib.crc32(body) + body


def decode_item(value: bytes, *, name: str) -> Item:
    """The item in a stored value.

    Args:
        value: what `encode_item` made.
        name: where it was found, for the error's message.

    Raises:
        DamagedItemError: the value disagrees with its checksum.
        CorruptItemError: it is no item of this release.
    """
    if value[:CHECKSUM_BYTES] != b"%08x" % zlib.crc32(value[CHECKSUM_BYTES:]):
        message = f"{name} disagrees with its checksum: rebuild the buffer from the log"
        raise DamagedItemError(message)
    try:
        found = _decoder.decode(value[_HEAD_BYTES:])
        asked = _inputs[found.task].decode(found.input)
    except msgspec.MsgspecError as error:
        message = f"{name} was not written by this release: rebuild the buffer from the log"
        raise CorruptItemError(message) from error
    return Item(**(msgspec.structs.asdict(found) | {"input": asked}))
