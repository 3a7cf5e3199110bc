"""An answer over HTTP that is an error: OpenAI's envelope, and what the client should do about it."""

from collections.abc import Mapping
from typing import Any, Final, NotRequired, TypedDict

import msgspec
from starlette.responses import Response

INVALID: Final = 422
"""The request is wrong; what a task's clients expect instead is `serve.tasks.face.Face.invalid_status`."""


class Problem(TypedDict):
    """What is wrong."""

    code: str
    message: str
    type: str
    field: NotRequired[str]
    param: NotRequired[str]


class Envelope(TypedDict):
    """An error as OpenAI's clients read it."""

    error: Problem


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

    @property
    def envelope(self) -> Envelope:
        """The error as OpenAI's clients read it: they show the message alone, so it names the field too."""
        if not self.field:
            return {"error": {"code": self.code, "message": str(self), "type": _type(self.status)}}
        message, kind = f"{self.field}: {self}", _type(self.status)
        return {"error": Problem(code=self.code, message=message, type=kind, field=self.field, param=self.field)}

    def response(self, invalid_status: int = INVALID) -> Response:
        """The error in OpenAI's envelope; `invalid_status`: what a wrong request is answered with."""
        headers = None if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        return json_response(self.envelope, invalid_status if self.status == INVALID else self.status, headers)


def _type(status: int) -> str:
    """As OpenAI names kinds of errors."""
    named = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    return named.get(status, "invalid_request_error" if status < 500 else "server_error")  # noqa: PLR2004


def json_response(body: Mapping[str, Any], status: int, headers: Mapping[str, str] | None = None) -> Response:
    """A body as JSON."""
    return Response(msgspec.json.encode(body), status, headers, media_type="application/json")
