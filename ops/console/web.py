"""One request and one answer of the console, and what every answer says to a browser."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from ipaddress import ip_address
from typing import Final, Protocol
from urllib.parse import parse_qs

ROOT: Final = "/console"
MAX_BODY_BYTES: Final = 16 << 10
_HTML: Final = "text/html; charset=utf-8"
_HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self';"
        " form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-real-ip", "via")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request, read whole."""

    method: str
    path: str  # without its query
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)  # by names in lower case
    body: bytes = b""
    peer: str = "127.0.0.1"  # the address it came from

    def value(self, name: str) -> str:
        """A field of the query, or of the form that was sent; empty where there is none."""
        text = self.query if self.method == "GET" else self.body.decode("utf-8", "replace")
        return parse_qs(text).get(name, [""])[0]

    @property
    def token(self) -> str | None:
        """The bearer token that it shows."""
        scheme, _, shown = self.headers.get("authorization", "").partition(" ")
        return shown.strip() if scheme.lower() == "bearer" and shown.strip() else None

    @property
    def from_this_machine(self) -> bool:
        """Whether it came over loopback, and through no proxy that says so."""
        if any(name in self.headers for name in _FORWARDED):
            return False
        try:
            address = ip_address(self.peer.partition("%")[0])
        except ValueError:
            return False
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback

    @property
    def from_no_other_page(self) -> bool:
        """Whether no page of another origin made a browser send it; a link on one may lead here, and reads nothing."""
        origin = self.headers.get("origin")
        if origin is not None:
            host = self.headers.get("host", "").lower()
            return bool(host) and origin.lower() in {f"http://{host}", f"https://{host}"}
        if self.headers.get("sec-fetch-site") in {None, "none", "same-origin"}:
            return True
        followed = self.headers.get("sec-fetch-mode"), self.headers.get("sec-fetch-dest")
        return self.method == "GET" and followed == ("navigate", "document")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One answer."""

    status: HTTPStatus
    body: bytes
    headers: Mapping[str, str]


class Pages(Protocol):
    """What answers below `/console`."""

    def answer(self, asked: Asked) -> Answered:
        """The answer to a request; it never raises, and comes within seconds."""


def page(html: str, status: HTTPStatus = HTTPStatus.OK) -> Answered:
    """A page, which nobody keeps."""
    return _answered(status, html.encode(), _HTML, "no-store")


def refused(status: HTTPStatus, why: str) -> Answered:
    """A line that says why not."""
    return _answered(status, f"{why}\n".encode(), "text/plain; charset=utf-8", "no-store")


def file(data: bytes, kind: str) -> Answered:
    """A file of ours; its address names its content, so that it may be kept."""
    return _answered(HTTPStatus.OK, data, kind, "private, max-age=86400, immutable")


def _answered(status: HTTPStatus, body: bytes, kind: str, keep: str) -> Answered:
    return Answered(status=status, body=body, headers={**_HEADERS, "Content-Type": kind, "Cache-Control": keep})
