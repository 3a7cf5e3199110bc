"""What schemathesis is told of requests that its document cannot say; it loads this file by `SCHEMATHESIS_HOOKS`."""

from itertools import count
from typing import Any, Final

import schemathesis

_NUMBERS: Final = count()
_LONGEST: Final = 200  # of keys that are made longer: those at their bound are sent as they are
_KEY: Final = "Idempotency-Key"


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Each request is another one: it takes a key of its own, or the gateway refuses another body under one key."""
    key = (case.headers or {}).get(_KEY)
    if isinstance(key, str) and 1 <= len(key) <= _LONGEST and key.isascii() and key.isprintable() and key.strip():
        case.headers[_KEY] = f"{key}{next(_NUMBERS)}"
