"""Who may speak to a port, by the head of a request alone: before a byte of its body is read.

A web page can make its visitor's browser send requests to loopback, and with a name of its own that resolves to
127.0.0.1 (DNS rebinding) it can read the answers. It cannot hide that: a browser says the name it was given (Host),
the page that asks (Origin, Sec-Fetch-Site), and asks permission first for any Content-Type but three.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from serve.front.errors import ApiError
from serve.front.names import from_no_page, known_host
from serve.settings import is_loopback


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """What is known of who sent a request before its body is read."""

    keyed: bool  # it shows a key that opens a lane
    local: bool  # it comes from this machine, not through a proxy for somebody else
    open_here: bool  # some lane is open to this machine without a key


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """What the settings say of names and pages."""

    hosts: frozenset[str] = frozenset()  # names by which this port may be called, beside loopback's own
    origins: frozenset[str] = frozenset()  # pages whose requests are answered


def admit(headers: Mapping[str, str], caller: Caller, doors: Doors, max_body_bytes: int) -> None:
    """Refuse what can be refused by the head of a request with a body.

    Raises:
        ApiError: as of `admit_caller`; 415, 413.
    """
    admit_caller(headers, caller, doors)
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "unsupported_media_type", "the Content-Type must be application/json", "Content-Type")
    length = headers.get("content-length", "")
    if length.isdigit() and int(length) > max_body_bytes:
        raise ApiError(413, "request_too_large", f"the body is over {max_body_bytes} bytes")


def admit_caller(headers: Mapping[str, str], caller: Caller, doors: Doors) -> None:
    """Refuse who may not speak to us.

    The name that a request calls us by matters only where nothing but its coming from this machine opens the lane: a
    page knows no key, and behind a load balancer the name is the public one.

    Raises:
        ApiError: 403 for a web page or a foreign name, 401 without a key.
    """
    if not from_no_page(headers, doors.origins):
        message = "requests of web pages are not answered: name the page in gateway.allowed_origins if it is yours"
        raise ApiError(403, "origin_not_allowed", message)
    if not caller.keyed:
        if not (caller.local and caller.open_here):
            raise ApiError(401, "invalid_api_key", "this API key opens no lane")
        if not known_host(headers.get("host"), doors.hosts):
            message = "Host is no name of this gateway: name it in gateway.allowed_hosts if it is"
            raise ApiError(403, "host_not_allowed", message)


def is_local(peer: str | None, headers: Mapping[str, str]) -> bool:
    """Whether a request comes from this machine itself: what a proxy here forwards comes from whom it says.

    Args:
        peer: address of the connection's other end; None for a Unix socket.
        headers: of the request, names in lower case.
    """
    if not is_loopback(peer) or "forwarded" in headers:
        return False
    named = [headers[name] for name in ("x-forwarded-for", "x-real-ip") if name in headers]
    return all(is_loopback(one.strip()) for value in named for one in value.split(","))
