"""How many connections there may be, and how long one may keep a place without using it.

Over the limit the connection that has waited longest without ever having been answered makes room, so that idle ones,
however many, keep nobody out. Uvicorn has no such limits; its protocol is told of them here.
"""

import asyncio
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Final, Literal

import h11
from prometheus_client import Counter, Gauge
from uvicorn.protocols.http.h11_impl import H11Protocol

Place = Literal["waiting", "receiving", "resting", "busy"]
Why = Literal["silent", "slow_head", "unread", "evicted", "refused"]

_MAX_HEAD_BYTES: Final = 16 << 10
_MAX_AHEAD_BYTES: Final = 64 << 10  # of a next request that is sent before this one is answered
_LAST_WORD_S: Final = 1.0  # at the end: for a request that is on its way
_LEAST_REFUSED_STATUS: Final = 400
_GIVE_WAY: Final[tuple[Place, ...]] = ("waiting", "receiving", "resting")  # in this order; busy ones never do


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """What connections may take."""

    connections: int = 4096  # open at once
    silent_s: float = 15.0  # from opening to the first byte
    head_s: float = 10.0  # from a request's first byte to the end of its head
    unread_s: float = 5.0  # for the rest of a body that was refused before it was read
    unread_bytes: int = 8 << 20
    flush_s: float = 30.0  # for the client to take its answer


class Connections:
    """All open connections of one port. Used from the event loop alone."""

    def __init__(self, limits: ConnectionLimits, open_now: Gauge, closed: Counter) -> None:
        """None is open yet.

        Args:
            limits: what they may take.
            open_now: how many there are.
            closed: those that we ended, by `why`.
        """
        self.limits = limits
        self._open_now = open_now
        self._closed = closed
        self._places: dict[Place, dict[BoundedProtocol, None]] = {
            "waiting": {},
            "receiving": {},
            "resting": {},
            "busy": {},
        }

    def __len__(self) -> int:
        """How many are open."""
        return sum(len(place) for place in self._places.values())

    def add(self, one: "BoundedProtocol") -> None:
        """Take a new connection in, or close it where all others are being answered."""
        full = len(self) >= self.limits.connections
        self._places["waiting"][one] = None
        if full and not self.make_room(1, keep=one):
            self.close(one, "refused")
        self._open_now.set(len(self))

    def remove(self, one: "BoundedProtocol") -> None:
        """Forget a connection that is closed."""
        self._places[one.place].pop(one, None)
        self._open_now.set(len(self))

    def move(self, one: "BoundedProtocol", place: Place) -> None:
        """Put a connection last in another place."""
        if one.place != place and one in self._places[one.place]:
            del self._places[one.place][one]
            self._places[place][one] = None
            one.place = place

    def make_room(self, wanted: int, *, keep: "BoundedProtocol | None" = None) -> int:
        """Close up to so many connections, those first that have waited longest in vain; returns how many."""
        waiting = chain.from_iterable(self._places[place] for place in _GIVE_WAY)
        found = list(islice((one for one in waiting if one is not keep), wanted))
        for one in found:
            self.close(one, "evicted")
        return len(found)

    def count_refused(self) -> None:
        """Count a connection that could not even be accepted."""
        self._closed.labels("refused").inc()

    def close(self, one: "BoundedProtocol", why: Why) -> None:
        """Close a connection now; nothing of what it was still to be sent matters."""
        self._closed.labels(why).inc()
        self._places[one.place].pop(one, None)
        one.transport.abort()


class BoundedProtocol(H11Protocol):
    """Uvicorn's protocol with deadlines and a place among all connections."""

    pool: Connections

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.conn: StrictConnection = StrictConnection(h11.SERVER, _MAX_HEAD_BYTES)
        self.place: Place = "waiting"
        self._deadline: asyncio.TimerHandle | None = None
        self._waits_for: Why | None = None  # what the deadline is of
        self._unread_bytes = 0
        self._stuck: asyncio.TimerHandle | None = None  # the deadline of a client that takes no more of its answers

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        """Take a place."""
        super().connection_made(transport)
        self._wait("silent", self.pool.limits.silent_s)
        self.pool.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        self._wait(None)
        self._unstick()
        self.pool.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, and see where the request has come to."""
        super().data_received(data)
        if self._answered_early():
            self._unread_bytes += len(data)
        self._look()

    def on_response_complete(self) -> None:
        """Go on to the next request, and see where it has come to."""
        self._unread_bytes = 0
        super().on_response_complete()
        self._look()

    def shutdown(self) -> None:
        """The server ends: close as soon as what is asked is answered.

        One that has asked nothing yet, or half of it, has a moment to: to close while bytes come in resets the
        connection, and its client could not tell whether it was heard (RFC 9112, 9.6).
        """
        if self.conn.their_state is h11.IDLE and (self.conn.last_status is None or self.conn.ahead_bytes):
            self.loop.call_later(_LAST_WORD_S, self._last_word)
        else:
            super().shutdown()

    def _last_word(self) -> None:
        if not self.transport.is_closing():
            super().shutdown()

    def pause_writing(self) -> None:
        """The client takes no more: whoever sends waits, but not for ever."""
        super().pause_writing()
        self._unstick()
        self._stuck = self.loop.call_later(self.pool.limits.flush_s, self.pool.close, self, "unread")

    def resume_writing(self) -> None:
        """The client takes more."""
        self._unstick()
        super().resume_writing()

    def _unstick(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def send_400_response(self, msg: str) -> None:
        """Say what is wrong with the bytes, unless an answer is on its way already, and close."""
        if self.conn.our_state is h11.SEND_RESPONSE and (cycle := getattr(self, "cycle", None)) is not None:
            cycle.disconnected = True  # nobody will read its answer
            cycle.message_event.set()
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:
            self.transport.close()

    def _look(self) -> None:
        """Where the connection stands now: its place, and the deadline that goes with it."""
        limits, conn = self.pool.limits, self.conn
        if self.transport.is_closing():
            if self.transport.get_write_buffer_size():
                self._wait("unread", limits.flush_s)
        elif self._answered_early():
            self.pool.move(self, "waiting")
            self._wait("unread", limits.unread_s)
            if self._unread_bytes > limits.unread_bytes:
                self.pool.close(self, "unread")
        elif conn.their_state is h11.IDLE:
            self._look_at_idle()
        elif conn.their_state is h11.SEND_BODY:
            self.pool.move(self, "receiving")
            self._wait(None)
        else:
            self.pool.move(self, "busy")
            self._wait(None)
            if conn.ahead_bytes > _MAX_AHEAD_BYTES:
                self.pool.close(self, "unread")

    def _look_at_idle(self) -> None:
        """Between requests: uvicorn's own timer runs from an answer to the next first byte, ours where it does not."""
        limits, conn = self.pool.limits, self.conn
        self.pool.move(self, "resting" if conn.was_accepted else "waiting")
        if conn.ahead_bytes:
            self._wait("slow_head", limits.head_s)
            return
        if self.transport.get_write_buffer_size():
            self._wait("unread", limits.flush_s)
        else:
            self._wait(None)
        if self.timeout_keep_alive_task is None:  # the rest of a refused body has cancelled it
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _answered_early(self) -> bool:
        """Whether a request was answered while its body is still coming in, to be thrown away."""
        return self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY

    def _wait(self, why: Why | None, seconds: float = 0.0) -> None:
        """Set the one deadline. One of the same kind that runs already is left alone: bytes do not put it off."""
        if why == self._waits_for:
            return
        if self._deadline is not None:
            self._deadline.cancel()
        self._waits_for = why
        self._deadline = None if why is None else self.loop.call_later(seconds, self._over, why)

    def _over(self, why: Why) -> None:
        self._deadline = self._waits_for = None
        if why == "unread" and self.conn.their_state is h11.IDLE and not self.transport.get_write_buffer_size():
            self._look()  # the answer was taken after all
            return
        self.pool.close(self, why)


class StrictConnection(h11.Connection):
    """What h11 lets pass though two servers may read it in two ways is an error; also keeps the last status."""

    last_status: int | None = None

    @property
    def was_accepted(self) -> bool:
        """Whether the last request was one that we serve."""
        return self.last_status is not None and self.last_status < _LEAST_REFUSED_STATUS

    @property
    def ahead_bytes(self) -> int:
        """How much has come that is not part of a request yet."""
        return len(self._receive_buffer)

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """As h11's.

        Raises:
            h11.RemoteProtocolError: the head leaves open where the body ends.
        """
        event = super().next_event()
        if isinstance(event, h11.Request):
            names = {name for name, _ in event.headers}
            if b"transfer-encoding" in names and (b"content-length" in names or event.http_version < b"1.1"):
                message = "Transfer-Encoding with Content-Length, or in HTTP/1.0"
                raise h11.RemoteProtocolError(message)
        return event

    def send_with_data_passthrough(self, event: h11.Event) -> list[bytes] | None:
        """As h11's."""
        if isinstance(event, h11.Response):
            self.last_status = event.status_code
        return super().send_with_data_passthrough(event)


def protocol_of(connections: Connections) -> type[BoundedProtocol]:
    """The protocol to give to uvicorn, bound to one set of connections."""
    return type("GatewayProtocol", (BoundedProtocol,), {"pool": connections})
