"""LiteLLM's proxy as the teacher: a lane asks it as it asks any endpoint. Needs `litellm[proxy]`'s program."""

import asyncio
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from secrets import token_hex

import httpx
import pytest

from serve.teacher.client import Answered
from store.event import TextInput
from tests.ops.children import until
from tests.serve.fakes import TEACHER, teacher_of

pytestmark = pytest.mark.clients
PROGRAM = shutil.which("litellm")
CONFIG = """
model_list:
  - model_name: big
    litellm_params: {model: openai/anything, api_key: none, mock_response: "no"}
general_settings:
  master_key: sk-{key}
"""
KEY = token_hex(32)  # without one it refuses to start, and so it does with a weak one


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[str]:
    if PROGRAM is None:
        pytest.skip("no program `litellm`: pip install 'litellm[proxy]'")
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.replace("{key}", KEY), "utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    line = [PROGRAM, "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(line, cwd=tmp_path, stdout=log, stderr=log) as running:
        try:
            until(lambda: running.poll() is not None or answers(f"{url}/health/liveliness"), seconds=240.0)
            assert running.poll() is None, (tmp_path / "log").read_text("utf-8", "replace")[-2000:]
            yield f"{url}/v1"
        finally:
            running.terminate()


def answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


def test_a_lane_is_taught_through_litellms_proxy(proxy: str) -> None:
    async def ask() -> object:
        teacher = teacher_of(
            replace(TEACHER, base_url=proxy, api_key=f"sk-{KEY}", timeout_s=60.0), monotonic=lambda: 0.0
        )
        try:
            return await teacher.ask(TextInput(text="is it?"))
        finally:
            await teacher.close()

    reply = asyncio.run(ask())
    assert isinstance(reply, Answered)
    assert reply.answer.label == "no"  # type: ignore[attr-defined]
    assert reply.answer.usage.prompt_tokens > 0
