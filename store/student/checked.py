"""What a student's version is checked for, whatever its task, before a file of it is read."""

from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

from store.errors import CorruptVersionError
from store.registry.manifest import Manifest
from store.registry.students.records import RecordBase

Own = TypeVar("Own", bound=RecordBase)
_LEAST_TOKENS: Final = 8  # [CLS], [SEP] and a little text


def record_of(manifest: Manifest, kind: type[Own]) -> Own:
    """The record of a version, which must be of this task's kind.

    Raises:
        CorruptVersionError: it is another task's.
    """
    if not isinstance(manifest.student, kind):
        message = f"a version of {manifest.student.task} was taken for one of {kind.task}"
        raise CorruptVersionError(message)
    return manifest.student


def check_whole(manifest: Manifest, needed: Sequence[str], problems: Mapping[str, bool]) -> None:
    """See that a manifest does not contradict itself.

    Args:
        manifest: of the version.
        needed: files that it must name.
        problems: what else may be wrong, in words, and whether it is.

    Raises:
        CorruptVersionError: something is wrong; the message says what.
    """
    lacking = [name for name in needed if name not in manifest.files]
    found = {
        f"it lacks {', '.join(lacking)}": bool(lacking),
        **problems,
        "its longest text is under 8 tokens": manifest.preprocessing.max_tokens < _LEAST_TOKENS,
    }
    for problem, wrong in found.items():
        if wrong:
            message = f"a version cannot be loaded: {problem}"
            raise CorruptVersionError(message)
