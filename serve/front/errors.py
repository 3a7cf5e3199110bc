"""An answer over HTTP that is an error: OpenAI's envelope, and what the client should do about it."""

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import Response


class ApiError(Exception):
    """An answer that is an error: status, code, and the field that is to blame."""

    def __init__(
        self, status: int, code: str, message: str, field: str | None = None, *, retry_after_s: int | None = None
    ) -> None:
        """Keep what the client will read."""
        super().__init__(message)
        self.status = status
        self.code = code
        self.field = field
        self.retry_after_s = retry_after_s

    def response(self) -> Response:
        """The error in OpenAI's envelope."""
        error = {"code": self.code, "message": str(self)} | ({"field": self.field} if self.field else {})
        headers = None if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        return json_response({"error": error}, self.status, headers)


def json_response(body: dict[str, Any], status: int, headers: Mapping[str, str] | None = None) -> Response:
    """A body as JSON."""
    return Response(msgspec.json.encode(body), status, headers, media_type="application/json")
