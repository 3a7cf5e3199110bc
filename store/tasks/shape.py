"""What of a chat completion's request decides what its answer may be: it is a part of the question."""

from collections.abc import Mapping
from typing import Any, Final

SHAPE: Final = (
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "functions",
    "function_call",
    "response_format",
    "stop",
)
TOOLS: Final = ("tools", "functions")
_NO_SHAPE: Final[tuple[Any, ...]] = (None, [], {}, {"type": "text"})  # as if it were not there


def shape_of(request: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a request that shape its answer, as they were sent."""
    return {name: request[name] for name in SHAPE if request.get(name) not in _NO_SHAPE}
