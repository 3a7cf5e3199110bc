"""What a lane relies on of its vLLM servers, and what it guards against: the fake and a real one are held to the same.

The real one is opt-in: `make test-vllm`. The tests build upon one another in their order, since a start takes minutes:
what ends a server comes last.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import safetensors.torch
import torch

from serve.engine.vllm import EngineError, PoisonedError, Prompt, Said, UnknownVersionError, VllmServer
from store.student.chat.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from store.student.chat.decoder import Decoder
from store.student.chat.generate import Asked, generate
from tests.serve.engine.fake_vllm import FakeVllm
from tests.serve.engine.real_vllm import PYTHON, RealVllm
from tests.store.chat.versions import adapter_of
from tests.tiny_decoders import tiny_decoder

Tensors = dict[str, torch.Tensor]
LIMIT = 6
SAME = 0.02  # of a log-probability: another engine's float32


class Stand:
    """One server, a base, and folders of adapters that it sees."""

    def __init__(self, kind: str, folder: Path) -> None:
        base = tiny_decoder(folder / "base", seed=3, head_dim=64)
        self.decoder = Decoder.load(base, device="cpu", precision="fp32")
        self.trained = adapter_of(self.decoder)
        self.adapted = self.trained.on(self.decoder)
        self.folder = folder
        self.process = FakeVllm(base) if kind == "fake" else RealVllm(base, folder / "server.log")
        self.process.start()

    @property
    def server(self) -> VllmServer:
        return VllmServer(self.process.url, timeout_s=600.0)

    def adapter(self, name: str, change: Callable[[Path], None] = lambda _: None) -> str:
        """A folder of its own, after a change of its files."""
        target = self.folder / name
        target.mkdir()
        for path, data in self.trained.files().items():
            (target / Path(path).name).write_bytes(data)
        change(target)
        return str(target)

    def ids(self, text: str) -> list[int]:
        return self.decoder.template.render([{"role": "user", "content": text}])

    def ask(self, name: str, text: str = "my parcel is late") -> Said:
        return self.server.ask(Prompt(version=name, ids=self.ids(text), limit=LIMIT))

    def restart(self) -> None:
        self.process.stop()
        self.process.start()

    def serves_on(self) -> bool:
        (want,) = generate(self.adapted, [Asked(self.ids("is it not"), LIMIT, ())])
        return self.server.healthy() and self.ask("good", "is it not").ids == want.ids


@pytest.fixture(scope="module", params=["fake", pytest.param("real", marks=pytest.mark.vllm)])
def stand(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    if request.param == "real" and not PYTHON.is_file():
        pytest.fail(f"{PYTHON} is missing: `make test-vllm` makes it")
    found = Stand(request.param, tmp_path_factory.mktemp(request.param))
    try:
        found.server.load("good", found.adapter("good"))
        yield found
    finally:
        found.process.stop()


def config(**said: object) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        path = folder / Path(ADAPTER_CONFIG).name
        path.write_text(json.dumps(json.loads(path.read_text()) | said))

    return write


def weights(change: Callable[[Tensors], Tensors]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        path = folder / Path(ADAPTER_WEIGHTS).name
        path.write_bytes(safetensors.torch.save(change(safetensors.torch.load(path.read_bytes()))))

    return write


def raw(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        path = folder / Path(ADAPTER_WEIGHTS).name
        path.write_bytes(change(path.read_bytes()))

    return write


def nan(tensors: Tensors) -> Tensors:
    return {name: torch.full_like(one, float("nan")) for name, one in tensors.items()}


def test_what_is_loaded_is_listed_beside_the_base(stand: Stand) -> None:
    assert stand.server.healthy()
    assert {"base", "good"} <= stand.server.names()
    assert stand.server.roots() == {str(stand.folder / "base")}


@pytest.mark.parametrize("text", ["my parcel is late", "is it not", "please help"])
def test_an_adapters_answer_is_the_merged_students_token_by_token(stand: Stand, text: str) -> None:
    (want,) = generate(stand.adapted, [Asked(stand.ids(text), LIMIT, ())])
    said = stand.ask("good", text)
    assert said.ids == want.ids
    assert said.logprobs == pytest.approx(want.logprobs, abs=SAME)
    assert said.whole == (want.finish_reason == "stop")


def test_a_name_is_taken_once(stand: Stand) -> None:
    with pytest.raises(EngineError, match="400"):
        stand.server.load("good", str(stand.folder / "good"))
    assert stand.serves_on()


def test_more_alternatives_than_twenty_are_refused(stand: Stand) -> None:
    prompt = Prompt(version="good", ids=stand.ids("x"), limit=1)
    answer = httpx.post(f"{stand.process.url}/completions", json=prompt.body | {"logprobs": 21}, timeout=600.0)
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("rank-above", config(r=64)),
        ("header", raw(lambda data: b"\xff" * 16 + data[16:])),
        ("truncated", raw(lambda data: data[:-100])),
        ("wider", weights(lambda of: {name: torch.cat([one, one, one], dim=1) for name, one in of.items()})),
    ],
)
def test_what_it_refuses_itself_it_serves_on_after(stand: Stand, name: str, change: Callable[[Path], None]) -> None:
    with pytest.raises(EngineError, match="refused"):
        stand.server.load(name, stand.adapter(name, change))
    assert name not in stand.server.names()
    assert stand.serves_on()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("flipped", raw(lambda data: data[:-7] + bytes([data[-7] ^ 1]) + data[-6:])),
        ("lying-rank", config(r=8)),
        ("foreign", weights(lambda of: {name.replace("self_attn", "attention"): one for name, one in of.items()})),
        ("narrower", weights(lambda of: {name: one[:, :-1].contiguous() for name, one in of.items()})),
        ("missing", weights(lambda of: {name: one for name, one in of.items() if ".2." not in name})),
    ],
)
def test_what_it_believes_is_why_files_are_verified_before_it_sees_them(
    stand: Stand, name: str, change: Callable[[Path], None]
) -> None:
    """Should one of these begin to fail here, the server has learned something, and the guard costs nothing."""
    stand.server.load(name, stand.adapter(name, change))
    assert name in stand.server.names()
    stand.server.unload(name)
    assert stand.serves_on()


def test_what_is_unloaded_is_not_known_any_more(stand: Stand) -> None:
    stand.server.load("short-lived", stand.adapter("short-lived"))
    assert stand.ask("short-lived").ids == stand.ask("good").ids
    stand.server.unload("short-lived")
    stand.server.unload("short-lived")  # which changes nothing
    with pytest.raises(UnknownVersionError):
        stand.ask("short-lived")
    assert "short-lived" not in stand.server.names()


def test_a_folder_that_is_gone_is_missed_only_when_its_adapter_was_forgotten(stand: Stand) -> None:
    for number in range(5):  # one more than it keeps beside `good`
        stand.server.load(f"one-of-{number}", stand.adapter(f"one-of-{number}"))
        stand.ask(f"one-of-{number}")
    shutil.rmtree(stand.folder / "one-of-0")
    stand.ask("one-of-4")
    with pytest.raises(EngineError):
        stand.ask("one-of-0")
    stand.restart()
    stand.server.load("good", str(stand.folder / "good"))
    assert stand.serves_on()


def test_an_adapter_of_nan_is_believed_and_ends_every_answer_though_health_is_well(stand: Stand) -> None:
    stand.server.load("nan", stand.adapter("nan", weights(nan)))
    with pytest.raises(PoisonedError):
        stand.ask("nan")
    with pytest.raises(PoisonedError):
        stand.ask("good", "another prompt")
    assert stand.server.healthy()
    stand.restart()
    assert "good" not in stand.server.names()
    stand.server.load("good", str(stand.folder / "good"))
    assert stand.serves_on()
