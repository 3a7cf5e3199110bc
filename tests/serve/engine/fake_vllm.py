"""A vLLM of a tiny decoder: the same HTTP, and what 0.32 was seen to do with good, broken and lying adapters.

| what it is handed | what it does |
|---|---|
| a new name | 200; the name is listed |
| a name that it has | 400 |
| a rank above its limit, a broken header, a truncated file, tensors wider than the layer | 500, and it serves on |
| NaN, a flipped byte, a lying rank, foreign names, missing layers, tensors narrower than the layer | 200 |
| a prompt to an adapter of NaN | nothing is said from then on, to anybody; its health is 200 |
| a name that it had to forget (more than `cpu_adapters`) and whose folder is gone | it dies |
"""

import asyncio
import json
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import uvicorn
from safetensors import SafetensorError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from store.student.chat.adapter import PEFT, A, B
from store.student.chat.decoder import Decoder
from store.student.chat.generate import Asked, Generation, generate

MAX_RANK = 16
MAX_LOGPROBS = 20
START_S = 60.0


class FakeVllm:
    """One server on a port of loopback; `start` again after `stop` is a new process that knows nothing."""

    def __init__(self, base: Path, *, cpu_adapters: int = 4, decoder: Decoder | None = None) -> None:
        self.decoder = decoder or Decoder.load(base, device="cpu", precision="fp32")
        self.name, self.model = "base", base
        self.cpu_adapters = cpu_adapters
        self.port = 0
        self.asked: list[dict[str, Any]] = []
        self.full = False
        self.shift = 0.0  # of every log-probability: another model than it says
        self.breaks_after: int | None = None  # tokens of a stream
        self.turn: threading.Semaphore | None = None  # that each token of a stream needs
        self.streamed: list[int] = []  # tokens of each stream that has ended, in whatever way
        self._forget()

    def _forget(self) -> None:
        self.known: OrderedDict[str, Path] = OrderedDict()
        self.memory: OrderedDict[str, Decoder | None] = OrderedDict()  # None: of NaN
        self.poisoned = False
        self.dead = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> "FakeVllm":
        self._forget()
        app = Starlette(
            routes=[
                Route("/health", lambda _: Response(status_code=500 if self.dead else 200)),
                Route("/v1/models", self._models),
                Route("/v1/load_lora_adapter", self._load, methods=["POST"]),
                Route("/v1/unload_lora_adapter", self._unload, methods=["POST"]),
                Route("/v1/completions", self._complete, methods=["POST"]),
            ]
        )
        self._server = uvicorn.Server(
            uvicorn.Config(app, host="127.0.0.1", port=self.port, log_level="critical", lifespan="off")
        )
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        until(lambda: self._server.started)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        return self

    def serve(self, model: Path, name: str) -> None:
        """Stop, and start with another model under another name."""
        self.stop()
        self.decoder = Decoder.load(model, device="cpu", precision="fp32")
        self.name, self.model = name, model
        self.start()

    def stop(self) -> None:
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(START_S)

    def _models(self, _: Request) -> Response:
        found = [{"id": self.name, "root": str(self.model), "parent": None}]
        found += [{"id": name, "root": str(path), "parent": self.name} for name, path in self.known.items()]
        return JSONResponse({"object": "list", "data": found})

    async def _load(self, request: Request) -> Response:
        body = await request.json()
        name, folder = body["lora_name"], Path(body["lora_path"])
        if name in self.known:
            return _error(400, f"The lora adapter '{name}' has already been loaded.")
        try:
            decoder = self._read(folder)
        except (OSError, ValueError, KeyError, SafetensorError, RuntimeError) as error:
            return _error(500, f"{type(error).__name__}: {error}")
        self.known[name] = folder
        self._remember(name, decoder)
        return Response(f"Success: LoRA adapter '{name}' added successfully.")

    async def _unload(self, request: Request) -> Response:
        name = (await request.json())["lora_name"]
        if name not in self.known:
            return _error(404, f"The lora adapter '{name}' cannot be found.")
        del self.known[name]
        self.memory.pop(name, None)
        return Response(f"Success: LoRA adapter '{name}' removed successfully.")

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        name, decoder = body["model"], self.decoder
        if (refused := self._refused(body)) is not None:
            return refused
        if name != self.name:
            try:
                found = self.memory[name] if name in self.memory else self._read(self.known[name])
            except OSError:
                self.dead = True
                return _error(500, "EngineDeadError")
            self._remember(name, found)
            self.poisoned = self.poisoned or found is None
            decoder = found or decoder
        if self.poisoned:
            if body.get("logprobs") is not None:
                return _error(400, "Out of range float values are not JSON compliant")
            return JSONResponse(_completion(name, "", [], [], "stop"))
        asked = Asked(body["prompt"], body["max_tokens"], tuple(body.get("stop", ())))
        (said,) = generate(decoder, [asked])
        worth = [one + self.shift for one in said.logprobs]
        if body.get("stream"):
            return StreamingResponse(self._pieces(name, said, worth), media_type="text/event-stream")
        return JSONResponse(_completion(name, said.text, said.ids, worth, said.finish_reason or "length"))

    async def _pieces(self, name: str, said: Generation, worth: list[float]) -> AsyncIterator[bytes]:
        """A token an event, as 0.32 streams them: each with its own text, ids and log-probabilities."""
        text, count = "", 0
        try:
            for count, (token, logprob) in enumerate(zip(said.ids, worth, strict=True), 1):
                if self.breaks_after is not None and count > self.breaks_after:
                    return
                while self.turn is not None and not self.turn.acquire(blocking=False):  # noqa: ASYNC110 - of a test's thread
                    await asyncio.sleep(0.002)
                last = count == len(said.ids)
                whole = said.text if last else self.decoder.template.text_of(said.ids[:count]).rstrip("\ufffd")
                ended = (said.finish_reason or "length") if last else None
                delta = _completion(name, whole[len(text) :], [token], [logprob], ended)
                text = whole if len(whole) > len(text) else text
                yield b"data: " + json.dumps(delta).encode() + b"\n\n"
            yield b"data: [DONE]\n\n"
        finally:
            self.streamed.append(count)

    def _refused(self, body: dict[str, Any]) -> Response | None:
        if self.dead:
            return _error(500, "EngineDeadError")
        if self.full:
            return _error(429, "too many")
        if body.get("logprobs", 0) > MAX_LOGPROBS:
            return _error(400, "Requested sample logprobs of more than 20")
        if body["model"] not in {self.name, *self.known}:
            return _error(404, f"The model `{body['model']}` does not exist.")
        return None

    def _remember(self, name: str, decoder: Decoder | None) -> None:
        self.memory[name] = decoder
        self.memory.move_to_end(name)
        while len(self.memory) > self.cpu_adapters:
            self.memory.popitem(last=False)

    def _read(self, folder: Path) -> Decoder | None:
        """What it makes of an adapter: it looks at the rank's limit, the header and shapes, and at nothing else."""
        said = json.loads((folder / "adapter_config.json").read_text())
        if said["r"] > MAX_RANK:
            message = f"LoRA rank {said['r']} is greater than max_lora_rank {MAX_RANK}"
            raise ValueError(message)
        tensors = safetensors.torch.load((folder / "adapter_model.safetensors").read_bytes())
        if any(not bool(one.isfinite().all()) for one in tensors.values()):
            return None
        own, changed = dict(self.decoder.model.named_parameters()), {}
        for name, first in tensors.items():
            path = name.removeprefix(PEFT).removesuffix(A)
            if name.endswith(A) and f"{path}.weight" in own and f"{PEFT}{path}{B}" in tensors:
                weight = own[f"{path}.weight"]
                last = _laid(tensors[f"{PEFT}{path}{B}"], weight.shape[0], MAX_RANK)
                product = last @ _laid(first, MAX_RANK, weight.shape[1])
                changed[f"{path}.weight"] = own[f"{path}.weight"] + said["lora_alpha"] / said["r"] * product
        return self.decoder.twin(changed) if changed else self.decoder


def _laid(tensor: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Laid into a place of the limit's size, as it does: what is too small fits, and what is too large does not."""
    place = torch.zeros(rows, columns)
    if tensor.shape[0] > rows or tensor.shape[1] > columns:
        message = f"{tuple(tensor.shape)} does not fit {(rows, columns)}"
        raise RuntimeError(message)
    place[: tensor.shape[0], : tensor.shape[1]] = tensor.float()
    return place


def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + START_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message, "code": status}}, status)


def _completion(name: str, text: str, ids: list[int], logprobs: list[float], ended: str | None) -> dict[str, Any]:
    choice = {
        "index": 0,
        "text": text,
        "finish_reason": ended,
        "token_ids": ids,
        "logprobs": {"token_logprobs": logprobs, "tokens": [str(one) for one in ids]},
    }
    usage = {"prompt_tokens": 1, "completion_tokens": len(ids)}
    return {"id": "c", "object": "text_completion", "created": 1, "model": name, "choices": [choice], "usage": usage}
