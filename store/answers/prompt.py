"""What a prompt version is: the hash of all that shapes a teacher's answer."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from store.labels import AnswerFormat
from store.registry.manifest import canonical_json

_HEX_DIGITS: Final = 16


def prompt_version(
    *,
    model: str,
    prompt: str,
    parameters: Mapping[str, Any],
    answer_format: AnswerFormat,
    labels: Sequence[str] | None = None,
    beside: Mapping[str, Any] | None = None,
) -> str:
    """The hash of all that shapes a teacher's answer; answers of another prompt version are stale.

    The endpoint's address is not part of it: moving a model to another host makes no answer stale. Nor is the list of
    labels: whether an answer is on today's list, and as what it is read, is seen label by label.

    Args:
        model: its name.
        prompt: the template.
        parameters: of the request.
        answer_format: how the answer is read.
        labels: of what an earlier release hashed: it took the list of labels with the rest.
        beside: what else shapes it, by name; none where there is nothing.
    """
    shape: dict[str, Any] = {
        "model": model,
        "prompt": prompt,
        "parameters": dict(parameters),
        "answer_format": answer_format,
    }
    if labels is not None:
        shape["labels"] = list(labels)
    if beside is not None:
        shape["beside"] = dict(beside)
    return hashlib.sha256(canonical_json(shape)).hexdigest()[:_HEX_DIGITS]
