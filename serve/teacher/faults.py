"""Why a call to the teacher failed: whose fault it is, whether it may have been billed, and whether to send it again.

Only what surely never left this process, and a 429 or 503, is sent again. What is not surely free counts as billed.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import httpx2
import openai

FaultReason = Literal["key", "model", "address", "parameters", "quota"]
Whose = Literal["request", "teacher", "settings"]

REASONS: Final[Mapping[FaultReason, str]] = {
    "key": "the endpoint refuses the API key: renew it in the variable that lanes.teacher.api_key_env names",
    "model": "the endpoint has no such model or path: see lanes.teacher.model and lanes.teacher.base_url",
    "address": "the endpoint is elsewhere: see lanes.teacher.base_url",
    "parameters": "the endpoint does not take one of lanes.teacher.parameters",
    "quota": "the account has no quota left: raise it with the provider",
}
# Raised before a byte of the request is written.
_NEVER_SENT: Final = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.ProxyError,
    httpx2.UnsupportedProtocol,
    httpx2.InvalidURL,
)
# Refused without being read by any model.
_FREE: Final = frozenset(
    {400, 401, 402, 404, 405, 407, 410, 411, 413, 414, 415, 417, 421, 422, 426, 428, 429, 431, 503}
)
_SETTINGS: Final[Mapping[int, FaultReason]] = {
    401: "key",
    402: "quota",
    404: "model",
    405: "address",
    407: "address",
    410: "model",
}
_CODES: Final[Mapping[str, FaultReason]] = {
    **dict.fromkeys(
        (
            "invalid_api_key",
            "incorrect_api_key",
            "api_key_invalid",
            "authentication_error",
            "unauthenticated",
            "account_deactivated",
            "account_suspended",
            "permission_error",
            "permission_denied",
            "insufficient_permissions",
            "access_denied",
            "accessdenied",
            "unsupported_country_region_territory",
        ),
        "key",
    ),
    **dict.fromkeys(("model_not_found", "deploymentnotfound", "model_not_available"), "model"),
    **dict.fromkeys(("unsupported_parameter", "unsupported_value", "unknown_parameter"), "parameters"),
    **dict.fromkeys(
        ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "insufficient_balance"), "quota"
    ),
}
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})  # of the others none says that the address is wrong
_FILTERS: Final = ("filter", "moderation", "policy", "safety", "flagged")
_BAD_REQUEST, _FORBIDDEN, _TOO_MANY, _UNAVAILABLE = 400, 403, 429, 503
_MOST_BODY: Final = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFault:
    """One failed call."""

    detail: str  # for a log; quotes neither the question nor the answer
    whose: Whose
    billed: bool  # it may have been
    again: bool = False  # it may be sent again
    wait_s: float | None = None  # before that, as the endpoint asks; None: it does not say
    reason: FaultReason | None = None  # with the settings' fault


def fault_of(error: Exception, *, sent: bool) -> CallFault:
    """The fault behind an exception of the client.

    Args:
        error: what was raised.
        sent: the request may have begun to leave.
    """
    if isinstance(error, openai.APIStatusError):
        return fault_of_status(error.status_code, error.response.headers, error.response.content)
    cause = error.__cause__ if isinstance(error, openai.APIConnectionError) else error
    name = type(cause or error).__name__
    if isinstance(cause, _NEVER_SENT) or (isinstance(error, openai.APIConnectionError) and not sent):
        return CallFault(detail=name, whose="teacher", billed=False, again=True)
    ours = not sent and not isinstance(error, openai.OpenAIError | TimeoutError)
    return CallFault(detail=name, whose="request" if ours else "teacher", billed=sent)


def fault_of_status(status: int, headers: Mapping[str, str], body: bytes) -> CallFault:
    """The fault behind an answer that is none."""
    codes = frozenset(_codes(body))
    filtered = any(mark in code for code in codes for mark in _FILTERS)
    detail = f"status {status}"
    reason = None if filtered else next((_CODES[code] for code in sorted(codes & _CODES.keys())), None)
    if status == _TOO_MANY and reason != "quota":
        reason = None
    if status not in {_BAD_REQUEST, _FORBIDDEN, _TOO_MANY}:
        reason = _SETTINGS.get(status)
    if status in _REDIRECTS:
        return CallFault(
            detail=f"{detail}, to {_host(headers)}: not followed; if that is right, set lanes.teacher.base_url to it",
            whose="settings",
            billed=True,
            reason="address",
        )
    billed = status not in _FREE or (filtered and status == _BAD_REQUEST)
    if reason is not None:
        return CallFault(
            detail=f"{detail}: {REASONS[reason]}",
            whose="settings",
            billed=status != _FORBIDDEN and billed,
            reason=reason,
        )
    if status in {_TOO_MANY, _UNAVAILABLE}:
        return CallFault(detail=detail, whose="teacher", billed=False, again=True, wait_s=_retry_after_s(headers))
    whose: Whose = "request" if 400 <= status < 500 else "teacher"  # noqa: PLR2004
    return CallFault(detail=detail, whose=whose, billed=billed)


def _codes(body: bytes) -> Iterator[str]:
    """The words by which an error names itself. Messages are not read: they may quote the question."""
    try:
        found: Any = json.loads(body[:_MOST_BODY])
    except (ValueError, RecursionError):
        return
    if isinstance(found, list) and found:
        found = found[0]
    for level in (found, found.get("error") if isinstance(found, dict) else None):
        if not isinstance(level, dict):
            continue
        inner = level.get("innererror")
        details = level.get("details")
        tables = [level, inner, *(details if isinstance(details, list) else [])]
        for table in tables[:16]:
            if isinstance(table, dict):
                values = (table.get(name) for name in ("code", "type", "status", "reason"))
                yield from (value.strip().lower()[:64] for value in values if isinstance(value, str))
        metadata = level.get("metadata")
        if isinstance(metadata, dict) and "flagged_input" in metadata:
            yield "flagged"


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """How long the endpoint asks to wait, a date measured against its own; infinity: it cannot be read."""
    text = headers.get("retry-after")
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(text) - parsedate_to_datetime(headers.get("date", ""))).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return float("inf")
    return max(0.0, seconds) if isfinite(seconds) else float("inf")


def _host(headers: Mapping[str, str]) -> str:
    """Where a redirect leads, without its path, which may hold anything."""
    try:
        host = urlsplit(headers.get("location", "")).hostname or ""
    except ValueError:
        host = ""
    plain = host.isascii() and all(character.isalnum() or character in ".-:" for character in host)
    return host[:253] if host and plain else "another path"
