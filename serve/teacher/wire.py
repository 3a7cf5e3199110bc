"""The teacher's connection: no redirects, no proxies but the configured one, bounded answers, and whether it was sent.

An answer is read here to its end or its bound, packed and unpacked, whatever its status is; what comes after it never
waits for a byte more. Header lines are bounded by the HTTP library at 100 kB in all.
"""

import zlib
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

import httpx2

MAX_ANSWER_BYTES: Final = 1 << 20
_CONNECT_S: Final = 10.0
_WINDOW_BITS: Final = {"gzip": 31, "x-gzip": 31, "deflate": 15}
_NOT_PASSED_ON: Final = frozenset({"content-encoding", "content-length", "transfer-encoding", "set-cookie"})


class UnreadableAnswerError(httpx2.TransportError):
    """An answer came that is too large, or packed in a way that does not unpack. It may have been billed."""


@dataclass(slots=True)
class Flight:
    """One call on its way."""

    sent: bool = False  # its first byte may have left; from then on it may have been billed
    hear: Callable[[bytes], None] | None = None  # told of each piece of an answer that comes as a stream of events


FLIGHT: Final[ContextVar[Flight | None]] = ContextVar("flight", default=None)


class BoundedTransport(httpx2.AsyncBaseTransport):
    """Reads answers within the bound, and notes in `FLIGHT` when a request begins to leave."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, *, most_bytes: int = MAX_ANSWER_BYTES) -> None:
        """Wrap the transport that connects."""
        self._inner = inner
        self._most_bytes = most_bytes

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request and read the whole answer.

        Raises:
            UnreadableAnswerError: it is over the bound, or cannot be unpacked.
            httpx2.TransportError: as the inner transport says.
        """
        flight = FLIGHT.get()

        async def trace(event: str, given: Mapping[str, Any]) -> None:
            """Hear what the connection does; a proxy that is asked for a tunnel has not been told the request."""
            if flight is not None and event.endswith(".send_request_headers.started"):
                flight.sent = flight.sent or getattr(given.get("request"), "method", b"") != b"CONNECT"

        request.extensions = {**request.extensions, "trace": trace}
        request.headers["Accept-Encoding"] = "identity"
        response = await self._inner.handle_async_request(request)
        try:
            hear = flight.hear if flight is not None and _is_stream(response) else None
            body = await _read(response, self._most_bytes, hear)
        finally:
            await response.aclose()
        headers = [(name, value) for name, value in response.headers.raw if _passed_on(name)]
        return httpx2.Response(response.status_code, headers=headers, content=body, request=request)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()


def time_outs(timeout_s: float) -> httpx2.Timeout:
    """The bound of each step of a call that is bounded as a whole by `timeout_s`.

    Connecting has less, and ends by itself: a handshake that is cut off from outside leaves its socket open.
    """
    return httpx2.Timeout(timeout_s, connect=min(_CONNECT_S, timeout_s / 3))


def http_client(
    *, timeout_s: float, connections: int, proxy: str | None = None, most_bytes: int = MAX_ANSWER_BYTES
) -> httpx2.AsyncClient:
    """A client that goes where it is told and nowhere else; the environment's proxies and `.netrc` are not read."""
    inner = httpx2.AsyncHTTPTransport(
        proxy=proxy,  # the CA bundle is still the one that SSL_CERT_FILE names, if it does
        limits=httpx2.Limits(max_connections=2 * connections, max_keepalive_connections=connections),
    )
    return httpx2.AsyncClient(
        transport=BoundedTransport(inner, most_bytes=most_bytes),
        timeout=time_outs(timeout_s),
        follow_redirects=False,
        trust_env=False,
    )


def _passed_on(name: bytes) -> bool:
    return name.decode("latin-1").lower() not in _NOT_PASSED_ON


def _is_stream(response: httpx2.Response) -> bool:
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    return response.is_success and kind == "text/event-stream" and "content-encoding" not in response.headers


async def _read(response: httpx2.Response, most_bytes: int, hear: Callable[[bytes], None] | None = None) -> bytes:
    codings = [one.strip().lower() for one in response.headers.get("content-encoding", "").split(",")]
    codings = [one for one in codings if one not in {"", "identity"}]
    packed = bytearray()
    async for chunk in response.aiter_raw():
        packed += chunk
        if len(packed) > most_bytes:
            message = f"an answer of more than {most_bytes} bytes"
            raise UnreadableAnswerError(message)
        if hear is not None:
            hear(chunk)
    return bytes(packed) if not codings or not packed else _unpacked(bytes(packed), codings, most_bytes)


def _unpacked(packed: bytes, codings: list[str], most_bytes: int) -> bytes:
    """We ask for none, and some pack all the same: gzip and deflate are read."""
    if len(codings) > 1 or codings[0] not in _WINDOW_BITS:
        message = "an answer that is packed in a way that was not asked for"
        raise UnreadableAnswerError(message)
    bits = [_WINDOW_BITS[codings[0]]]
    if codings[0] == "deflate":
        bits.append(-15)  # as some send it, without a header
    for window_bits in bits:
        opened = zlib.decompressobj(window_bits)
        try:
            body = opened.decompress(packed, most_bytes)
        except zlib.error:
            continue
        if opened.eof:
            return body
        message = f"an answer that is cut off, or of more than {most_bytes} bytes unpacked"
        raise UnreadableAnswerError(message)
    message = "an answer that does not unpack"
    raise UnreadableAnswerError(message)
