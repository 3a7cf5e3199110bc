"""What schemathesis is told of requests that its document cannot say; it loads this file by `SCHEMATHESIS_HOOKS`."""

from itertools import count
from typing import Any, Final
from uuid import uuid4

import schemathesis

from serve.openapi.operation import MAX_HEADER_CHARS

_RUN: Final = uuid4().hex[:12]  # several runs ask one gateway
_NUMBERS: Final = count()
_KEY: Final = "Idempotency-Key"


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Each request is another one: it takes a key of its own, or the gateway refuses another body under one key."""
    key = (case.headers or {}).get(_KEY)
    if isinstance(key, str) and key.strip() and len(key) <= MAX_HEADER_CHARS:
        case.headers[_KEY] = f"{_RUN}-{next(_NUMBERS)}-{key}"[:MAX_HEADER_CHARS]
