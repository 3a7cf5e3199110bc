"""The listening socket: a few connections a turn, and no want of descriptors reaches the event loop."""

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from serve.front.listener import Listener
from serve.front.listener import listen as open_port


class Pool:
    """Counts what it is asked for."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.refused = 0

    def make_room(self, wanted: int) -> int:
        return min(self.room, wanted)

    def count_refused(self) -> None:
        self.refused += 1


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def listen(stack: ExitStack, pool: Pool) -> Listener:
    listening = open_port("127.0.0.1", 0)
    listener = stack.enter_context(Listener(listening, pool.make_room, pool.count_refused))
    listener.setblocking(False)
    return listener


def connect(stack: ExitStack, listener: Listener, clients: int) -> list[socket.socket]:
    return [stack.enter_context(socket.create_connection(listener.getsockname())) for _ in range(clients)]


def accepted(stack: ExitStack, listener: Listener) -> int:
    """How many are accepted in one turn of an event loop."""
    found = 0
    while True:
        try:
            stack.enter_context(listener.accept()[0])
        except BlockingIOError:
            return found
        found += 1


def test_a_turn_accepts_sixteen_and_the_next_turn_goes_on(stack: ExitStack) -> None:
    listener = listen(stack, Pool(0))
    connect(stack, listener, 40)
    assert [accepted(stack, listener) for _ in range(4)] == [16, 16, 8, 0]


def starve(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """The next so many accepts find no descriptor."""
    real, left = socket.socket.accept, [times]

    def accept(one: socket.socket) -> tuple[socket.socket, object]:
        if left[0] > 0:
            left[0] -= 1
            raise OSError(errno.EMFILE, "too many open files")
        return real(one)

    monkeypatch.setattr(socket.socket, "accept", accept)


def test_for_want_of_a_descriptor_idle_connections_make_room(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(4)
    listener = listen(stack, pool)
    connect(stack, listener, 3)
    starve(monkeypatch, 1)
    assert [accepted(stack, listener) for _ in range(2)] == [0, 3]
    assert pool.refused == 0


def test_where_none_can_make_room_one_is_turned_away_each_turn(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = Pool(0)
    listener = listen(stack, pool)
    (first, *_) = connect(stack, listener, 3)
    starve(monkeypatch, 1)
    assert accepted(stack, listener) == 0
    assert pool.refused == 1
    first.settimeout(20)
    assert first.recv(1) == b""
    assert accepted(stack, listener) == 2


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_what_is_accepted_sends_at_once_what_is_written(stack: ExitStack, host: str) -> None:
    listener = stack.enter_context(Listener(open_port(host, 0), Pool(0).make_room, Pool(0).count_refused))
    listener.setblocking(False)
    stack.enter_context(socket.create_connection(listener.getsockname()[:2]))
    accepted = stack.enter_context(listener.accept()[0])
    assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_it_knows_whom_the_kernel_has_let_in(stack: ExitStack) -> None:
    listener = listen(stack, Pool(0))
    assert not listener.any_waiting()
    connect(stack, listener, 1)
    assert listener.any_waiting()
    assert accepted(stack, listener) == 1
    assert not listener.any_waiting()
