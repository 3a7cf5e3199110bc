"""Top-k log-probabilities as bytes: ids as uint32 and logarithms as float16, both little-endian."""

from typing import Final

import numpy as np
import numpy.typing as npt

from store.event import TopLogprobs

NO_TOKEN: Final = 0xFFFFFFFF
"""Id of a place in the table where the teacher named fewer alternatives; its logarithm is minus infinity."""
_IDS: Final = np.dtype("<u4")
_LOGPROBS: Final = np.dtype("<f2")


def pack_top(ids: npt.ArrayLike, logprobs: npt.ArrayLike, *, tokenizer: str) -> TopLogprobs:
    """Pack them.

    Args:
        ids: [n, k] of tokens, the chosen one first; `NO_TOKEN` where there is none.
        logprobs: [n, k], natural logarithms; one below float16's range becomes minus infinity.
        tokenizer: sha256 of the tokenizer.json that numbers them, 64 hex digits.

    Raises:
        ValueError: the two are not of one shape [n, k] with k >= 1.
    """
    numbers, values = np.asarray(ids, _IDS), np.asarray(logprobs, np.float64)
    if numbers.ndim != 2 or numbers.shape != values.shape or not numbers.shape[1]:  # noqa: PLR2004 - [n, k]
        message = f"ids {numbers.shape} and logprobs {values.shape}: one shape [n, k] is wanted"
        raise ValueError(message)
    with np.errstate(over="ignore"):
        packed = values.astype(_LOGPROBS)
    return TopLogprobs(tokenizer=tokenizer, k=numbers.shape[1], ids=numbers.tobytes(), logprobs=packed.tobytes())


def unpack_top(top: TopLogprobs) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The ids [n, k] and log-probabilities [n, k] of a table that `store.tasks.chat` has let in."""
    ids = np.frombuffer(top.ids, _IDS).reshape(-1, top.k).astype(np.int64)
    return ids, np.frombuffer(top.logprobs, _LOGPROBS).reshape(-1, top.k).astype(np.float32)
