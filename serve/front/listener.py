"""The gateway's listening socket: it accepts a few connections at a time, and survives the want of descriptors.

Asyncio accepts up to its backlog at once, before any of them can be turned away, and for want of a descriptor it logs
a traceback for each it cannot accept and then rests for a second.
"""

import errno
import os
import select
import socket
from collections.abc import Callable
from contextlib import closing
from typing import Final

_AT_ONCE: Final = 16  # in one turn of the event loop: what the reserve of descriptors must hold, a few times over
_WANT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def listen(host: str, port: int, backlog: int = 2048) -> socket.socket:
    """A listening socket whose connections send what is written at once.

    Asyncio asks that of the sockets that it opens itself and not of those that it is handed: there the second write of
    an answer waits for the client's acknowledgement, which a kernel holds back for 40 ms (Nagle's algorithm, RFC 896,
    met by delayed acknowledgements, RFC 1122).

    Args:
        host: an address of IPv4 or IPv6, or a name of IPv4.
        port: 0 for any free one.
        backlog: connections that may wait to be accepted.

    Raises:
        OSError: nothing can listen there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=backlog)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what it accepts inherits it
    return listening


class Listener(socket.socket):
    """A listening socket for one event loop."""

    def __init__(self, listening: socket.socket, make_room: Callable[[int], int], refused: Callable[[], None]) -> None:
        """Take a listening socket over.

        Args:
            listening: it, which must not be used any more.
            make_room: closes up to so many connections and says how many.
            refused: told of each connection that could not be accepted.
        """
        super().__init__(listening.family, listening.type, listening.proto, fileno=listening.detach())
        self._make_room = make_room
        self._refused = refused
        self._in_turn = 0
        self._spare = os.open(os.devnull, os.O_RDONLY)

    def accept(self) -> tuple[socket.socket, object]:
        """The next connection.

        Raises:
            BlockingIOError: there is none, or enough for one turn; the event loop comes back.
        """
        if self._in_turn >= _AT_ONCE:
            self._in_turn = 0
            raise BlockingIOError
        try:
            accepted = super().accept()
        except BlockingIOError:
            self._in_turn = 0
            raise
        except OSError as error:
            if error.errno not in _WANT:
                raise
            self._in_turn = 0
            if not self._make_room(_AT_ONCE):
                self._turn_away()
            raise BlockingIOError from error
        self._in_turn += 1
        return accepted

    def any_waiting(self) -> bool:
        """Whether the kernel has let in a connection that was not accepted yet: to close now would reset it."""
        poll = select.poll()
        poll.register(self, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Close it, and what was spared."""
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1
        super().close()

    def _turn_away(self) -> None:
        """Accept one connection with the descriptor that was spared, and close it: else it is offered for ever."""
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1
        try:
            with closing(super().accept()[0]):
                self._refused()
        except OSError:
            pass  # it went away by itself, or something else took the descriptor
        try:
            self._spare = os.open(os.devnull, os.O_RDONLY)
        except OSError:
            self._spare = -1
