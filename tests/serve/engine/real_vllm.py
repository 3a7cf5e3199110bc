"""A real vLLM on loopback, from a virtual environment of its own: what the fake is compared with."""

import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

PYTHON: Final = Path(".venv-vllm/bin/python")
_START_S: Final = 1800.0  # it was seen to take 81 seconds of processor time, which others may want
_SETTINGS: Final = (
    "OMP_NUM_THREADS=1",
    "TORCHDYNAMO_DISABLE=1",  # else the first request with log-probabilities compiles for over a minute
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True",
    "VLLM_CPU_KVCACHE_SPACE=1",
    "VLLM_NO_USAGE_STATS=1",
    "HF_HUB_OFFLINE=1",
)


class RealVllm:
    """One server; `start` again after `stop` is a new process that knows nothing."""

    def __init__(self, base: Path, log: Path) -> None:
        self._base, self._log = base, log
        self.port = _free_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> "RealVllm":
        server = [str(PYTHON), "-m", "vllm.entrypoints.openai.api_server"]  # `vllm` looks for a package of that name
        model = ["--model", str(self._base), "--served-model-name", "base", "--max-model-len", "256"]
        where = ["--host", "127.0.0.1", "--port", str(self.port)]
        engine = ["--dtype", "float32", "--enforce-eager"]
        adapters = ["--enable-lora", "--max-loras", "2", "--max-lora-rank", "16", "--max-cpu-loras", "4"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["env", *_SETTINGS, *server, *model, *where, *engine, *adapters],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline_s = time.monotonic() + _START_S
        while not self._healthy():
            assert self._process.poll() is None, self._log.read_text()[-2000:]
            assert time.monotonic() < deadline_s
            time.sleep(0.5)
        return self

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(60.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5.0) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
