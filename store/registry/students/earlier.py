"""Manifests that earlier releases signed, in the shape that today's code reads; their bytes and ids stay."""

from collections.abc import Mapping
from typing import Any, Final

_MOVED: Final = ("labels", "pool_weights", "golden")
_TYPES: Final[Mapping[str, type | tuple[type, ...]]] = {
    "recipe": str,
    "threads": int,
    "rows": int,
    "tuned_rows": (int, type(None)),
    "label_items": dict,
    "head_scale": (int, float),
    "mix_opinions": int,
}
_PRECISIONS: Final = ("fp32", "bf16")
_MODES: Final = ("none", "kept", "fresh", "warm")


def todays(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """A decoded manifest in today's shape; one that is of today, or not of any schema that is known, as it is.

    Schema 1 knew `classify` alone: what is now the student's record lay beside everything else, and how it was made
    in a mapping without a type, of which a release could keep what it liked.
    """
    if raw.get("schema") != 1 or raw.get("task") != "classify":
        return raw
    found = raw.get("training")
    training = found if isinstance(found, Mapping) else {}
    student = {name: raw[name] for name in _MOVED if name in raw}
    student |= {name: training[name] for name, kind in _TYPES.items() if isinstance(training.get(name, ...), kind)}
    if training.get("precision") in _PRECISIONS:
        student["precision"] = training["precision"]
    if training.get("fine_tune") in _MODES:
        student["fine_tune"] = training["fine_tune"]
    gone = {*_MOVED, "task", "training"}
    kept = {name: value for name, value in raw.items() if name not in gone}
    return {**kept, "schema": 2, "student": {"task": "classify", **student}}
