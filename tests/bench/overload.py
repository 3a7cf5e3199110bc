"""Overload: `python -m tests.bench.overload [--seconds 60] [--json]`.

A gateway process with a real student (MiniLM) and a teacher that only counts; a client in this process that sends at
its own pace, whatever the gateway does (an open loop), over raw sockets. Measured one after another:

- *capacity*: answers a second to as many clients as keep the gateway busy and are never refused;
- *steady*: latency at half of it;
- *overload*: three times of it. Goodput, latency of what was accepted, refusals, memory, and what the teacher was asked
  against what the lane's policy alone makes of the texts that were accepted. Also how many processor seconds the host
  gave to others meanwhile (Linux): a run that was robbed says little.

Prints one JSON object as its last line.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.overload_gateway import traffic

CLOSED = 24  # clients that measure capacity: they keep the student busy, and are hardly ever refused
AGAIN_S = 0.5  # after a refusal, in a closed loop: not to measure the cost of refusals
MOST_CONNECTIONS = 1_500
LATE_S = 10.0  # after the last request


@dataclass(kw_only=True)
class Found:
    """What came back."""

    latencies_s: list[float] = field(default_factory=list)  # of accepted requests, from when they were due
    accepted: Counter[int] = field(default_factory=Counter)  # text -> answers
    statuses: Counter[int] = field(default_factory=Counter)
    by_teacher: set[int] = field(default_factory=set)
    by_teacher_count: int = 0
    degraded: Counter[str] = field(default_factory=Counter)
    without_retry_after: int = 0
    unsent: int = 0  # no connection was free: the client's own limit
    unanswered: int = 0


class Connection(asyncio.Protocol):
    """One keep-alive connection with one request at a time."""

    def __init__(self, load: "Load") -> None:
        self.load = load
        self.transport: Any = None
        self.buffer = b""
        self.text = -1
        self.due_s = 0.0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found or len(body) < int(_header(head, b"content-length") or 0):
            return
        self.buffer = b""
        self.load.answered(self, head)

    def connection_lost(self, _: Exception | None) -> None:
        self.load.lost(self)


def _header(head: bytes, name: bytes) -> bytes | None:
    place = head.lower().find(b"\r\n" + name + b":")
    return None if place < 0 else head[place + len(name) + 3 :].split(b"\r\n", 1)[0].strip()


class Load:
    """Sends texts over a pool of connections and notes what comes back."""

    def __init__(self, port: int, texts: list[str]) -> None:
        self.port = port
        self.requests = [_request(text) for text in texts]
        self.free: deque[Connection] = deque()
        self.count = 0
        self.open = 0
        self.found = Found()
        self.answer_s: float | None = None  # the last one's
        self.next: Any = None  # what a closed loop does with a connection that has come free

    async def connect(self) -> Connection:
        self.count += 1
        _, protocol = await asyncio.get_running_loop().create_connection(
            lambda: Connection(self), "127.0.0.1", self.port
        )
        return protocol

    def send(self, connection: Connection, text: int, due_s: float) -> None:
        self.open += 1
        connection.text, connection.due_s = text, due_s
        connection.transport.write(self.requests[text])

    def answered(self, connection: Connection, head: bytes) -> None:
        self.open -= 1
        now_s, status = time.monotonic(), int(head[9:12])
        found, text, connection.text = self.found, connection.text, -1
        found.statuses[status] += 1
        if status == 200:
            found.latencies_s.append(now_s - connection.due_s)
            found.accepted[text] += 1
            if _header(head, b"x-understudy-served-by") == b"teacher":
                found.by_teacher.add(text)
                found.by_teacher_count += 1
            for name in (b"x-understudy-degraded", b"x-understudy-withheld"):
                if (value := _header(head, name)) is not None:
                    found.degraded[f"{name.decode()}: {value.decode()}"] += 1
        elif status == 429 and not (_header(head, b"retry-after") or b"").isdigit():
            found.without_retry_after += 1
        if self.next is not None and status == 429:
            asyncio.get_running_loop().call_later(AGAIN_S, self.next, connection)
        elif self.next is not None:
            self.next(connection)
        else:
            self.free.append(connection)

    def lost(self, connection: Connection) -> None:
        self.count -= 1
        if connection.text >= 0:
            self.open -= 1
            self.found.unanswered += 1
        elif connection in self.free:
            self.free.remove(connection)


def _request(text: str) -> bytes:
    body = json.dumps({"model": "intent", "input": text}).encode()
    head = f"POST /v1/classify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Content-Type: application/json\r\n\r\n" + body


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what the gateway or a connection brings about."""
    while not condition():  # noqa: ASYNC110 - much of it happens in the other process
        await asyncio.sleep(0.005)


async def closed_loop(load: Load, clients: int, seconds: float) -> float:
    """Answers a second to clients that ask again at once."""
    load.found = Found()
    turn = iter(range(1 << 62))
    end_s = time.monotonic() + seconds

    def again(connection: Connection) -> None:
        now_s = time.monotonic()
        if now_s < end_s:
            load.send(connection, next(turn) % len(load.requests), now_s)
        else:
            load.free.append(connection)

    load.next = again
    connections = [load.free.popleft() if load.free else await load.connect() for _ in range(clients)]
    started_s = time.monotonic()
    for connection in connections:
        again(connection)
    await until(lambda: not load.open and len(load.free) >= clients)
    load.next = None
    return len(load.found.latencies_s) / (time.monotonic() - started_s)


async def open_loop(load: Load, rate: float, seconds: float) -> Found:
    """Send `rate` requests a second, evenly, whatever comes back."""
    load.found = Found()
    started_s, total = time.monotonic(), int(rate * seconds)
    opening: set[asyncio.Task[None]] = set()

    async def on_a_new_one(text: int, due_s: float) -> None:
        load.send(await load.connect(), text, due_s)

    for number in range(total):
        due_s = started_s + number / rate
        if (wait_s := due_s - time.monotonic()) > 0.001:
            await asyncio.sleep(wait_s)
        text = number % len(load.requests)
        if load.free:
            load.send(load.free.popleft(), text, due_s)
        elif load.count < MOST_CONNECTIONS:
            task = asyncio.create_task(on_a_new_one(text, due_s))
            opening.add(task)
            task.add_done_callback(opening.discard)
        else:
            load.found.unsent += 1
        if number % 20 == 0:
            await asyncio.sleep(0)
    late_s = time.monotonic() + LATE_S
    await until(lambda: not (load.open or opening) or time.monotonic() > late_s)
    return load.found


@contextmanager
def gateway() -> Iterator[subprocess.Popen[str]]:
    """The gateway's process."""
    root = Path(__file__).parents[2]
    with tempfile.TemporaryDirectory() as folder:
        arguments = [sys.executable, "-m", "tests.bench.overload_gateway", folder]
        with subprocess.Popen(arguments, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            try:
                yield child
            finally:
                if child.stdin is not None:
                    child.stdin.close()
                try:
                    child.wait(30)
                except subprocess.TimeoutExpired:
                    child.kill()


def line(child: subprocess.Popen[str]) -> str:
    """The next line that the gateway prints, its own log left out."""
    assert child.stdout is not None
    while (found := child.stdout.readline()) and not (found.startswith("{") or found.strip().isdigit()):
        pass
    return found


def counts(child: subprocess.Popen[str]) -> dict[str, Any]:
    """What the gateway has done so far."""
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()
    found: dict[str, Any] = json.loads(line(child))
    return found


async def measure(child: subprocess.Popen[str], seconds: float, factor: float) -> dict[str, Any]:
    """All of it."""
    texts = traffic()
    load = Load(int(line(child)), texts)
    await until(lambda: counts(child)["served"] is not None)
    await closed_loop(load, 8, 2.0)  # warm
    load.found = Found()
    for text in range(len(texts)):  # what the policy alone makes of each text
        load.send(load.free.popleft(), text, time.monotonic())
        await until(lambda: not load.open)
    escalated = set(load.found.by_teacher)
    idle_cpu_s = counts(child)["cpu_s"]
    capacity = await closed_loop(load, CLOSED, max(5.0, seconds / 4))
    per_cpu_s = len(load.found.latencies_s) / (counts(child)["cpu_s"] - idle_cpu_s)
    refused_at_capacity = load.found.statuses[429]
    steady = await open_loop(load, capacity / 2, max(5.0, seconds / 3))
    before = counts(child)
    over = await open_loop(load, factor * capacity, seconds)
    after = counts(child)
    capacity_after = await closed_loop(load, CLOSED, max(5.0, seconds / 4))
    capacity_mean = (capacity + capacity_after) / 2  # a shared machine is not the same before and after
    steady_p99, accepted_p99 = (float(np.quantile(found.latencies_s, 0.99)) for found in (steady, over))
    accepted = len(over.latencies_s)
    return {
        "capacity_per_s": round(capacity, 1),
        "capacity_after_per_s": round(capacity_after, 1),
        "refused_at_capacity": refused_at_capacity,
        "steady_statuses": dict(steady.statuses),
        "offered_per_s": round(factor * capacity, 1),
        "seconds": seconds,
        "goodput_per_s": round(accepted / seconds, 1),
        "goodput_of_capacity": round(accepted / seconds / capacity_mean, 3),
        "goodput_of_capacity_per_cpu_s": round(accepted / (after["cpu_s"] - before["cpu_s"]) / per_cpu_s, 3),
        "steady_p50_ms": round(float(np.quantile(steady.latencies_s, 0.5)) * 1000, 1),
        "steady_p99_ms": round(steady_p99 * 1000, 1),
        "accepted_p50_ms": round(float(np.quantile(over.latencies_s, 0.5)) * 1000, 1),
        "accepted_p99_ms": round(accepted_p99 * 1000, 1),
        "p99_of_steady": round(accepted_p99 / steady_p99, 2),
        "statuses": dict(over.statuses),
        "without_retry_after": over.without_retry_after,
        "unsent": over.unsent,
        "unanswered": over.unanswered,
        "teacher_calls": after["calls"] - before["calls"],
        "answered_by_teacher": over.by_teacher_count,
        "degraded": dict(over.degraded),
        "escalated_texts": len(escalated),
        "policy_calls": sum(count for text, count in over.accepted.items() if text in escalated),
        "rss_before_mb": round(before["rss_bytes"] / 1e6, 1),
        "rss_after_mb": round(after["rss_bytes"] / 1e6, 1),
        "gateway_cpu_s": round(after["cpu_s"] - before["cpu_s"], 1),
        "stolen_cpu_s": round(after["stolen_s"] - before["stolen_s"], 1),
        "client_connections": load.count,
        "token_us": round(after["token_s"] * 1e6, 1),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="what becomes of the gateway at three times its capacity")
    parser.add_argument("--seconds", type=float, default=60.0, help="of overload")
    parser.add_argument("--factor", type=float, default=3.0, help="of capacity that is offered")
    parser.add_argument("--json", action="store_true", help="print the JSON object alone")
    chosen = parser.parse_args()
    with gateway() as child:
        found = asyncio.run(measure(child, chosen.seconds, chosen.factor))
    if not chosen.json:
        for name, value in found.items():
            print(f"{name:24} {value}")  # noqa: T201
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main()
