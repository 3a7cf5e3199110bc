"""What the gateway tells of itself: the use cases that a key opens, its document, and that nothing is elsewhere."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from serve.front.errors import ApiError, json_response
from serve.lane.opened import OpenLane
from serve.openapi.document import PATH, ModelCard

Tell = Callable[[Request, Sequence[OpenLane]], Response]
"""Answers a request, given the lanes that its key opens."""


def told_routes(document: Mapping[str, Any], created_s: float) -> Mapping[str, Tell]:
    """What is told by path; `created_s`: since when there are these models, Unix seconds."""
    models = _models(int(created_s))
    return {
        "/v1/models": models,
        "/v1/models/{model}": models,
        PATH: lambda _request, _lanes: json_response(document, 200),
    }


def _models(created: int) -> Tell:
    """The lanes, as OpenAI lists its models."""

    def models(request: Request, lanes: Sequence[OpenLane]) -> Response:
        names = sorted(one.parts.settings.lane.use_case for one in lanes)
        data: dict[str, ModelCard] = {
            name: {"id": name, "object": "model", "created": created, "owned_by": "understudy"} for name in names
        }
        asked = request.path_params.get("model")
        if asked is None:
            return json_response({"object": "list", "data": list(data.values())}, 200)
        if asked not in data:
            raise ApiError(404, "unknown_model", "no lane of this name is open to this key", "model")
        return json_response(data[asked], 200)

    return models


async def _elsewhere(request: Request, error: Exception) -> Response:
    """A path that nothing is served at, or a method that nothing answers there."""
    allowed = (error.headers or {}).get("Allow") if isinstance(error, HTTPException) else None
    if allowed is None:
        return ApiError(404, "unknown_path", f"nothing is served here: see GET {PATH}").response()
    refused = ApiError(405, "method_not_allowed", f"{request.method} is not answered here: {allowed} is").response()
    refused.headers["Allow"] = allowed
    return refused


async def _failed(_: Request, __: Exception) -> Response:
    """Our own fault, in the shape of every error; the server logs it."""
    return ApiError(500, "internal_error", "this gateway failed to answer: its log says how").response()


FALLBACKS: Final = {404: _elsewhere, 405: _elsewhere, 500: _failed}
"""What answers in place of a route, by status."""
