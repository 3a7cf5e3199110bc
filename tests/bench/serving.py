"""Serving: `python -m tests.bench.serving [--requests 300] [--rounds 3] [--json]`.

A gateway process with real students (MiniLM): a lane that classifies and one that ranks; a client in this process over
raw keep-alive connections. For each task, in turns within one run, so that a busy machine harms both sides alike:

- *throughput*: the same requests as bare forward passes of full batches in the gateway's process, and through the
  gateway from as many clients as keep it busy: bare seconds / gateway seconds, of which .9 is wanted. Also in processor
  seconds of the gateway's process, where what is done beside the passes counts in full although another core does it;
- *single*: p50 of requests one after another over their forward pass alone: 1.3 at most is wanted. Also in processor
  seconds;
- *cached*: p50 of a list of 100 documents that are known over one of 8: 2 at most is wanted.

Prints one JSON object as its last line.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

from tests.bench.serving_requests import lists_of, texts_of

CLIENTS = 64  # two full batches: one is read while the other comes in
SINGLES = 40
MODELS = {"classify": "intent", "rank": "shop"}
PATHS = {"classify": "/v1/classify", "rank": "/v1/rerank"}


async def post(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, body: bytes) -> tuple[int, bool]:
    """One request on a connection; returns its status, and whether the student answered."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    answer = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in answer.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    await reader.readexactly(length)
    return int(answer.split(b" ", 2)[1]), b"x-understudy-served-by: student" in answer.lower()


async def served(port: int, path: str, body: bytes) -> None:
    """Wait until the lane's student has been loaded."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while not (await post(reader, writer, path, body))[1]:  # noqa: ASYNC110 - it happens in the other process
        await asyncio.sleep(0.1)
    writer.close()


async def load(port: int, path: str, bodies: Sequence[bytes], clients: int) -> tuple[float, list[float]]:
    """Send each body once, from so many clients in a closed loop: seconds in all, and of each that was answered."""
    waiting, took = list(reversed(bodies)), list[float]()

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while waiting:
            body = waiting.pop()
            started_s = time.perf_counter()
            status, by_student = await post(reader, writer, path, body)
            if status == 429:
                waiting.insert(0, body)
                await asyncio.sleep(0.01)
                continue
            assert (status, by_student) == (200, True), status
            took.append(time.perf_counter() - started_s)
        writer.close()

    started_s = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return time.perf_counter() - started_s, took


class Side:
    """The gateway's process."""

    def __init__(self, folder: str, requests: int) -> None:
        command = [sys.executable, "-m", "tests.bench.serving_gateway", folder, str(requests)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def bare(self, task: str, what: str) -> tuple[float, float]:
        """Seconds of forward passes alone: of all requests in full batches, the median of a single one, or of none.

        Beside them processor seconds of the process so far.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{task} {what}\n")
        self.process.stdin.flush()
        seconds, cpu_s = self.process.stdout.readline().split()
        return float(seconds), float(cpu_s)

    def cpu_s(self, task: str) -> float:
        """Processor seconds of the process so far."""
        return self.bare(task, "none")[1]

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


def bodies_of(task: str, requests: int) -> list[bytes]:
    """The requests of a task, as they are sent."""
    if task == "classify":
        return [json.dumps({"model": MODELS[task], "input": text}).encode() for text in texts_of(requests)]
    return [
        json.dumps({"model": MODELS[task], "query": one.query, "documents": one.documents}).encode()
        for one in lists_of(requests)
    ]


def measure(side: Side, task: str, requests: int, rounds: int) -> dict[str, Any]:
    """All figures of one task; medians over rounds that take turns."""
    bodies, path = bodies_of(task, requests), PATHS[task]
    asyncio.run(served(side.port, path, bodies[0]))
    asyncio.run(load(side.port, path, bodies, CLIENTS))  # documents are known from here on, on both sides
    ratios: dict[str, list[float]] = {"throughput": [], "throughput_cpu": [], "single_p50": [], "single_cpu": []}
    for _ in range(rounds):
        begun = side.cpu_s(task)
        bare_s, after_bare = side.bare(task, "all")
        seconds, _ = asyncio.run(load(side.port, path, bodies, CLIENTS))
        ratios["throughput"].append(bare_s / seconds)
        ratios["throughput_cpu"].append((after_bare - begun) / (side.cpu_s(task) - after_bare))
        begun = side.cpu_s(task)
        one_s, after_bare = side.bare(task, "one")
        _, took = asyncio.run(load(side.port, path, bodies[:SINGLES], 1))
        ratios["single_p50"].append(median(took) / one_s)
        ratios["single_cpu"].append((side.cpu_s(task) - after_bare) / (after_bare - begun))
    return {
        **{f"{name}_ratio": round(median(each), 3) for name, each in ratios.items()},
        **{f"{name}_each": [round(one, 3) for one in each] for name, each in ratios.items()},
    }


def cached(side: Side, rounds: int) -> dict[str, Any]:
    """A list of 100 known documents against one of 8."""
    documents = [document for one in lists_of(60) for document in one.documents][:100]
    ratios = list[float]()
    for _ in range(rounds):
        took = {}
        for count in (8, 100):
            body = {"model": MODELS["rank"], "query": "which card is it?", "documents": documents[:count]}
            sent = [json.dumps(body).encode()] * SINGLES
            asyncio.run(load(side.port, PATHS["rank"], sent[:3], 1))
            took[count] = median(asyncio.run(load(side.port, PATHS["rank"], sent, 1))[1])
        ratios.append(took[100] / took[8])
    return {"cached_100_over_8": round(median(ratios), 3), "cached_each": [round(one, 3) for one in ratios]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="nothing but the JSON object")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        side = Side(folder, arguments.requests)
        try:
            found: dict[str, Any] = {}
            for task in MODELS:
                found[task] = measure(side, task, arguments.requests, arguments.rounds)
                if not arguments.json:
                    print(task, found[task])  # noqa: T201
            found["rank"] |= cached(side, arguments.rounds)
        finally:
            side.close()
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main()
