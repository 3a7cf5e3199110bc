"""SIGTERM of a real gateway process: what the teacher was paid for is published."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serve.fakes import eventually

TEACHER_S = 2.0  # longer than the server waits for open requests


@pytest.fixture
def process(tmp_path: Path) -> Any:
    arguments = [sys.executable, "-m", "tests.serve.gateway_process", str(tmp_path), str(TEACHER_S)]
    child = subprocess.Popen(arguments, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_sigterm_loses_no_paid_answer(process: subprocess.Popen[str], tmp_path: Path) -> None:
    assert process.stdout is not None
    port, has_torch = process.stdout.readline().split()
    assert has_torch == "False"  # the gateway itself needs none: a student brings it

    async def main() -> list[dict[str, Any]]:
        answered: list[dict[str, Any]] = []
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:

            async def ask(text: str) -> httpx.Response:
                return await client.post("/classify", json={"model": "intent", "input": text})

            async with asyncio.timeout(10):
                while (await ask("sure to be ready")).json()["data"][0]["served_by"] != "student":
                    pass  # cold until the champion is restored; the teacher takes its time
            answered += [(await ask(f"sure {index}")).json()["data"][0] for index in range(6)]
            open_requests = [asyncio.create_task(ask(f"unsure {index}")) for index in range(6)]
            await eventually(lambda: sum("unsure" in text for text in lines(tmp_path / "paid.jsonl")) == 6)
            process.send_signal(signal.SIGTERM)
            await asyncio.gather(*open_requests, return_exceptions=True)
        return answered

    audited = asyncio.run(main())
    assert process.wait(20) in {0, -signal.SIGTERM}
    events = lines(tmp_path / "events.jsonl")
    asked = sorted(text.rpartition("Text: ")[2] for text in lines(tmp_path / "paid.jsonl"))
    assert sorted(event["input"]["text"] for event in events) == asked
    assert {f"unsure {index}" for index in range(6)} <= set(asked)
    assert {answer["event_id"] for answer in audited} <= {event["id"] for event in events}
