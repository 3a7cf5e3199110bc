"""A file as bytes of UTF-8, whatever it is packed and written in, and by name what it is where it is no log.

What a file is, is told by its first bytes, never by its name, and before anything else is imported or read.
"""

import codecs
import gzip
import io
import re
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from store.errors import SettingsError

HEAD_BYTES: Final = 1 << 16
_GZIP: Final = b"\x1f\x8b"
_MOST_TIMES: Final = 400  # a packed log unpacks to fewer times its size
_ALWAYS_BYTES: Final = 64 << 20  # whatever it was packed to
_MARKS: Final = (  # the longest first
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_MAGIC: Final = (
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"FEA1", "a Feather file"),
    (b"Obj\x01", "an Avro file"),
    (b"ORC", "an ORC file"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"BZh", "packed with bzip2 (unpack it: bzip2 -d)"),
    (_GZIP, "packed with gzip twice (unpack it: gzip -d)"),
    (b"]\0\0", "packed with LZMA (unpack it: xz -d)"),
    (b"\x1f\x9d", "packed with compress (unpack it: gzip -d)"),
    (b"\x89LZO", "packed with lzop (unpack it)"),
    (b"\xff\x06\0\0sNaPpY", "packed with Snappy (unpack it)"),
    (b"\x78\x01", "packed with zlib (unpack it)"),
    (b"\x78\x9c", "packed with zlib (unpack it)"),
    (b"\x78\xda", "packed with zlib (unpack it)"),
    (b"version https://git-lfs", "a pointer of Git LFS (git lfs pull)"),
    (b"\xfd7zXZ\0", "packed with xz (unpack it: xz -d)"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd (unpack it: zstd -d)"),
    (b"\x04\x22\x4d\x18", "packed with lz4 (unpack it: lz4 -d)"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"%PDF", "a PDF"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"GIF8", "a picture"),
    (b"\x7fELF", "a program"),
    (b"MZ\x90", "a program"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"GGUF", "a model's weights"),
    (b"\xd0\xcf\x11\xe0", "an old Office document"),
    (b"{\\rtf", "an RTF document"),
)
_WAYS: Final = "a log is JSON lines, a JSON array or CSV, in UTF-8 or UTF-16, as it is or packed with gzip"
_PICKLE: Final = re.compile(rb"\x80[\x02-\x05]")
_OBJECT: Final = re.compile(rb'\s*\[?\s*\{\s*["}]')
_PAGE: Final = re.compile(
    rb"\s*(?:<!--.{0,2000}?-->\s*)?<(?:!doctype html|html|head|body)\b", re.IGNORECASE | re.DOTALL
)


@contextmanager
def open_log(path: Path) -> Iterator[tuple[io.BufferedReader, bytes]]:
    """The file as UTF-8 without a mark at its beginning, and its first bytes, which are still to be read.

    Raises:
        SettingsError: it cannot be read, it is something else (which is named), or it unpacks to far too much.
    """
    try:
        if not stat.S_ISREG(mode := path.stat().st_mode) and not stat.S_ISDIR(mode):  # which the system names itself
            message = f"{path} is a pipe or a device, and a log is read more than once: write it to a file first"
            raise SettingsError(message)
        file: io.BufferedReader = io.BufferedReader(io.FileIO(path), HEAD_BYTES)  # so that `peek` sees as much
        with file:
            head = file.peek(HEAD_BYTES)[:HEAD_BYTES]
            stream = file
            if head.startswith(_GZIP):
                limit = max(_ALWAYS_BYTES, _MOST_TIMES * path.stat().st_size)
                stream = io.BufferedReader(_Bounded(gzip.GzipFile(fileobj=file), limit, path), HEAD_BYTES)
                head = stream.peek(HEAD_BYTES)
            _refuse_other(path, _by_magic(head))
            if (encoding := _encoding(head)) is not None:
                stream = io.BufferedReader(_Recoded(stream, encoding), HEAD_BYTES)
                head = stream.peek(HEAD_BYTES)
            _refuse_other(path, _named(head))
            yield stream, head
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        message = f"{path}: it is packed with gzip, and damaged or not whole: {error}"
        raise SettingsError(message) from error
    except UnicodeDecodeError as error:
        message = f"{path}: it begins as {error.encoding} and does not go on as that: save it as UTF-8"
        raise SettingsError(message) from error
    except OSError as error:
        message = f"{path}: {error.strerror or error}"
        raise SettingsError(message) from error


def _encoding(head: bytes) -> str | None:
    """The encoding, where it is not UTF-8 without a mark."""
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    if len(head) > 7 and head[:4].count(0) == 3 == head[4:8].count(0):  # noqa: PLR2004 - two letters
        return "utf-32-be" if head[0] == 0 else "utf-32-le"
    if b"\r" in head and b"\n" not in head and len(head) < HEAD_BYTES:
        return "utf-8"  # line ends of an old Mac
    start = head[:2]
    if len(head) > 3 and 0 in start and start != b"\0\0" and head[2:4].count(0) == 1:  # noqa: PLR2004 - two letters
        return "utf-16-be" if start[0] == 0 else "utf-16-le"
    return None


def _refuse_other(path: Path, what: str | None) -> None:
    """Say what the file is, where it is surely no log."""
    if what is not None:
        message = f"{path} is {what}: {_WAYS}"
        raise SettingsError(message)


def _by_magic(head: bytes) -> str | None:
    return next((what for magic, what in _MAGIC if head.startswith(magic)), None)


def _named(head: bytes) -> str | None:
    if head.startswith(b"PK\x03\x04"):
        office = any(part in head[:4096] for part in (b"xl/", b"[Content_Types].xml", b"word/"))
        return (
            "an Excel workbook or another Office document (save it as CSV)" if office else "a zip archive (unpack it)"
        )
    if (packed := _by_magic(head)) is not None:
        return packed
    looks = {
        "a Python pickle (never opened: it may run a program)": _PICKLE.match(head),
        "a tar archive (unpack it)": head[257:262] == b"ustar",
        "a model's weights": head[8:9] == b"{" and 0 in head[:8],
        "an HTML page (of a login, perhaps)": _PAGE.match(head),
        "XML": head.lstrip()[:1] == b"<",
        "not a text": 0 in head and _OBJECT.match(head) is None,  # else a row of it may be damaged
    }
    return next((what for what, found in looks.items() if found), None)


class _Recoded(io.RawIOBase):
    """Another encoding, read as UTF-8; a mark at the beginning is left out."""

    def __init__(self, stream: IO[bytes], encoding: str) -> None:
        super().__init__()
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)("surrogateescape" if encoding == "utf-8" else "strict")
        self._is_utf8 = encoding == "utf-8"
        self._old_mac: bool | None = None  # its lines end in carriage returns alone
        self._pending = b""
        self._begun = False
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._pending and not self._ended:
            chunk = self._stream.read(HEAD_BYTES)
            self._ended = not chunk
            text = self._decoder.decode(chunk, final=self._ended)
            if text and not self._begun:
                self._begun, text = True, text.removeprefix("\ufeff")
            if self._old_mac is None and text:
                self._old_mac = "\r" in text and "\n" not in text
            text = text.replace("\r", "\n") if self._old_mac else text
            self._pending = text.encode("utf-8", "surrogateescape" if self._is_utf8 else "surrogatepass")
        count = min(len(buffer), len(self._pending))
        buffer[:count] = self._pending[:count]
        self._pending = self._pending[count:]
        return count


class _Bounded(io.RawIOBase):
    """What unpacks to no more than a log can."""

    def __init__(self, stream: gzip.GzipFile, limit_bytes: int, path: Path) -> None:
        super().__init__()
        self._stream = stream
        self._left = limit_bytes
        self._path = path

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self._stream.read(len(buffer))
        self._left -= len(chunk)
        if self._left < 0:
            message = (
                f"{self._path} unpacks to more than {_MOST_TIMES} times its size: unpack it yourself if it is meant"
            )
            raise SettingsError(message)
        buffer[: len(chunk)] = chunk
        return len(chunk)
