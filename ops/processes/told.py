"""The OpenAPI document of a process's admin port: its probes, its metrics, what it serves. The console is no API."""

from collections.abc import Mapping
from typing import Any, Final

PATH: Final = "/openapi.json"
_DESCRIPTION: Final = (
    "Each process has such a port, on loopback unless `admin.host` says otherwise. `GET` alone is answered, by no web "
    "page. `/console` and what is below it are pages for people with forms of their own, and no API: scripts use the "
    "command line."
)
_TEXT: Final = {"text/plain": {"schema": {"type": "string", "minLength": 1}}}
_JSON: Final = "application/json"
_LANES: Final = {
    "type": "object",
    "description": "By lane and replica, the version that is served; null while there is none.",
    "additionalProperties": {"type": "object", "additionalProperties": {"type": ["string", "null"]}},
}


def document() -> dict[str, Any]:
    """The document; it is the same for every process."""
    down = "It is not: why, a line each."
    paths = {
        "/livez": _get("livez", "Restart it where this fails", _TEXT, down),
        "/readyz": _get("readyz", "It works; `degraded: …` names what it does without", _TEXT, down),
        "/metrics": _get("metrics", "Metrics, as Prometheus reads them", _TEXT),
        "/lanes": _get("lanes", "What this gateway serves", {_JSON: {"schema": _LANES}}),
        PATH: _get("openapi", "This document", {_JSON: {"schema": {"type": "object", "required": ["openapi"]}}}),
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Understudy, the admin port of a process", "version": "1", "description": _DESCRIPTION},
        "servers": [{"url": "http://localhost:9471", "description": "`admin.serve_port`; each process has its own"}],
        "tags": [{"name": "process", "description": "Of one process alone."}],
        "paths": paths,
    }


def _get(
    name: str, summary: str, answer: Mapping[str, Any], down: str = "The question to the process failed."
) -> dict[str, Any]:
    refused = {"description": "A web page, or a name that is not in `admin.allowed_hosts`.", "content": _TEXT}
    responses = {
        "200": {"description": "So it is.", "content": answer},
        "403": refused,
        "503": {"description": down, "content": _TEXT},
    }
    return {
        "get": {"tags": ["process"], "operationId": name, "summary": summary, "security": [], "responses": responses}
    }
