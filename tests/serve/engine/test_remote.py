"""A lane whose language model answers on servers: what reaches them, what is refused, and what becomes of the rest."""

import asyncio
import gc
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import pytest
import safetensors.torch
import torch

from serve.engine.fleet import Fleet
from serve.engine.forward import RemoteForward
from serve.engine.remote import RemoteTalker, load_remote
from serve.engine.vllm import VllmServer
from serve.student.executor import StudentBusyError, StudentFailedError
from serve.student.line import TooLong
from serve.student.slot import Slot
from store.errors import CorruptVersionError, SwapRefusedError
from store.registry.manifest import Manifest
from store.registry.sealed import OpenVersion
from store.student.chat.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from store.student.chat.chatter import Chatter
from store.student.loaded import ChatOpinion
from tests.serve.engine.fake_vllm import FakeVllm, until
from tests.store.chat.versions import a_chat, make_chatter, write_version
from tests.store.drafts import make_versions

TEXTS = ("my parcel is late", "is it not", "please help")
Tensors = dict[str, torch.Tensor]


@dataclass
class Stand:
    """A student, what it was written as, two servers, and the folder that they see."""

    chatter: Chatter
    draft: Path
    manifest: Manifest
    servers: list[FakeVllm]
    folder: Path
    versions: Any
    key: Any

    def fleet(self) -> Fleet:
        return Fleet([VllmServer(one.url) for one in self.servers], look_s=0.02)

    def publish(self, change: Callable[[Path], None] = lambda _: None) -> tuple[str, OpenVersion]:
        """A version, after a change of its files."""
        draft = self.folder.parent / f"draft-{len(list(self.folder.parent.glob('draft-*')))}"
        copytree(self.draft, draft)
        change(draft)
        version = self.versions.publish(draft, self.manifest, self.key)
        return f"acme_{version}", self.versions.open(version)

    def load(self, fleet: Fleet, change: Callable[[Path], None] = lambda _: None) -> RemoteTalker:
        name, opened = self.publish(change)
        return load_remote(opened, fleet, version=name, folder=self.folder, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Chatter, Path, Manifest]:
    folder, draft = tmp_path_factory.mktemp("student"), tmp_path_factory.mktemp("draft")
    chatter = make_chatter(folder)
    return folder, chatter, draft, write_version(chatter, folder, draft)


@pytest.fixture
def stand(written: tuple[Path, Chatter, Path, Manifest], tmp_path: Path) -> Iterator[Stand]:
    folder, chatter, draft, manifest = written
    servers = [FakeVllm(folder / "base").start() for _ in range(2)]
    versions, key = make_versions(tmp_path / "registry")
    (tmp_path / "adapters").mkdir()
    try:
        yield Stand(chatter, draft, manifest, servers, tmp_path / "adapters", versions, key)
    finally:
        for one in servers:
            one.stop()


def ask(talker: RemoteTalker, *texts: str) -> list[Any]:
    """What it says to some texts at once; an exception is one's answer."""
    slot, forward = (
        Slot(version="v", student=talker),
        RemoteForward(
            max_batch=32, max_tokens=4096, wait_s=0.0, timeout_s=5.0, line_wait_s=60.0, observe=lambda *_: None
        ),
    )

    async def main() -> list[Any]:
        found = await asyncio.gather(*(forward.ask(slot, a_chat(text)) for text in texts), return_exceptions=True)
        for replica in talker.fleet.replicas:
            await replica.server.close()
            replica.server._client = None
        return found

    return asyncio.run(main())


def texts_of(found: list[Any]) -> list[str]:
    assert all(isinstance(one, ChatOpinion) for one in found), found
    return [one.output for one in found]


def test_a_version_answers_on_its_servers_as_it_does_here(stand: Stand) -> None:
    fleet = stand.fleet()
    talker = stand.load(fleet)
    wanted = stand.chatter.look([a_chat(text) for text in TEXTS])
    found = ask(talker, *TEXTS)
    assert texts_of(found) == [one.output for one in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one.confidence == pytest.approx(other.confidence, abs=1e-4)
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        assert one.tokens == other.tokens
    assert all(any(body["model"] == talker.name for body in server.asked) for server in stand.servers)
    assert {body["cache_salt"] for body in stand.servers[0].asked} == {talker.name}
    assert isinstance(ask(talker, "much too long " * 100)[0], TooLong)


def other_answers(draft: Path) -> None:
    (draft / "neighbours.json").write_text(json.dumps(["a", "b", "c"]))


def changed(change: Callable[[Tensors], Tensors]) -> Callable[[Path], None]:
    def write(draft: Path) -> None:
        path = draft / ADAPTER_WEIGHTS
        path.write_bytes(safetensors.torch.save(change(safetensors.torch.load(path.read_bytes()))))

    return write


def said_rank(rank: int) -> Callable[[Path], None]:
    def write(draft: Path) -> None:
        config = json.loads((draft / ADAPTER_CONFIG).read_text())
        (draft / ADAPTER_CONFIG).write_text(json.dumps({**config, "r": rank}))

    return write


def _nan(tensors: Tensors) -> Tensors:
    name = min(tensors)
    return {**tensors, name: torch.full_like(tensors[name], float("nan"))}


def _far(tensors: Tensors) -> Tensors:
    return {name: one * (-40.0 if "lora_B" in name else 1.0) for name, one in tensors.items()}


def _truncated(draft: Path) -> None:
    path = draft / ADAPTER_WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])


SABOTAGE: dict[str, tuple[Callable[[Path], None], type[Exception]]] = {
    "NaN": (changed(_nan), CorruptVersionError),
    "foreign names": (
        changed(lambda tensors: {name.replace("self_attn", "attention"): one for name, one in tensors.items()}),
        CorruptVersionError,
    ),
    "missing layers": (
        changed(lambda tensors: {name: one for name, one in tensors.items() if ".2." not in name}),
        CorruptVersionError,
    ),
    "other shapes": (
        changed(lambda tensors: {name: one.T.contiguous() for name, one in tensors.items()}),
        CorruptVersionError,
    ),
    "a lying rank": (said_rank(8), CorruptVersionError),
    "truncated": (_truncated, CorruptVersionError),
    "other numbers than the trainer saw": (changed(_far), SwapRefusedError),
}


@pytest.mark.parametrize("name", SABOTAGE)
def test_a_broken_version_is_refused_and_the_old_one_serves_on(stand: Stand, name: str) -> None:
    change, error = SABOTAGE[name]
    fleet = stand.fleet()
    talker = stand.load(fleet)
    before = texts_of(ask(talker, *TEXTS))
    known = [list(server.known) for server in stand.servers]
    with pytest.raises(error):
        stand.load(fleet, change)
    assert [list(server.known) for server in stand.servers] == known
    assert texts_of(ask(talker, *TEXTS)) == before
    assert [one.state for one in fleet.replicas] == ["up", "up"]


def test_a_byte_that_is_flipped_in_the_registry_is_found_before_a_server_sees_it(stand: Stand) -> None:
    name, opened = stand.publish()
    path = opened.folder / ADAPTER_WEIGHTS
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptVersionError):
        load_remote(opened, stand.fleet(), version=name, folder=stand.folder, device="cpu", precision="fp32")
    assert all(not server.known for server in stand.servers)


def test_two_versions_serve_side_by_side_and_going_back_is_a_pointer(stand: Stand) -> None:
    fleet = stand.fleet()
    first = stand.load(fleet)
    before = texts_of(ask(first, *TEXTS))
    second = stand.load(fleet, other_answers)
    assert first.name != second.name
    assert texts_of(ask(second, *TEXTS)) == before
    assert texts_of(ask(first, *TEXTS)) == before
    assert all(set(server.known) == {first.name, second.name} for server in stand.servers)


def test_a_server_that_goes_is_left_alone_and_has_its_versions_again_when_it_is_back(stand: Stand) -> None:
    fleet = stand.fleet()
    talker = stand.load(fleet)
    before = texts_of(ask(talker, *TEXTS))
    stand.servers[0].stop()
    assert texts_of(ask(talker, *TEXTS)) == before
    assert [one.state for one in fleet.replicas] == ["down", "up"]
    stand.servers[0].start()
    fleet.look()
    assert [one.state for one in fleet.replicas] == ["up", "up"]
    assert talker.name in stand.servers[0].known
    stand.servers[1].stop()
    assert texts_of(ask(talker, *TEXTS)) == before
    stand.servers[0].stop()
    (failed,) = ask(talker, TEXTS[0])
    assert isinstance(failed, StudentFailedError)


def test_a_poisoned_server_is_drained_until_it_has_been_started_anew(stand: Stand) -> None:
    fleet = stand.fleet()
    talker = stand.load(fleet)
    before = texts_of(ask(talker, *TEXTS))
    stand.servers[0].poisoned = True
    for _ in range(3):
        assert texts_of(ask(talker, *TEXTS)) == before
    assert [one.state for one in fleet.replicas] == ["poisoned", "up"]
    fleet.look()  # its health says that it is well
    assert [one.state for one in fleet.replicas] == ["poisoned", "up"]
    stand.servers[0].stop()
    stand.servers[0].start()
    fleet.look()
    assert [one.state for one in fleet.replicas] == ["up", "up"]


def test_the_golden_probe_finds_what_health_does_not_tell(stand: Stand) -> None:
    now = [0.0]
    fleet = Fleet([VllmServer(one.url) for one in stand.servers], monotonic=lambda: now[0])
    talker = stand.load(fleet)
    stand.servers[1].shift = -1.0
    fleet.look()
    assert [one.state for one in fleet.replicas] == ["up", "up"]
    now[0] = 60.0
    fleet.look()
    assert [one.state for one in fleet.replicas] == ["up", "poisoned"]
    assert f"golden prompts of {talker.name}" in fleet.replicas[1].why


def test_a_server_that_dies_of_a_folder_that_is_gone_costs_no_answer(stand: Stand) -> None:
    stand.servers[0].cpu_adapters = 0  # it forgets each adapter at once, and its folder is the only way back
    fleet = stand.fleet()
    talker = stand.load(fleet)
    before = texts_of(ask(talker, *TEXTS))
    rmtree(stand.folder / talker.name)
    assert texts_of(ask(talker, *TEXTS, *TEXTS)) == [*before, *before]
    assert stand.servers[0].dead
    assert [one.state for one in fleet.replicas] == ["down", "up"]
    stand.servers[0].stop()
    stand.servers[0].start()
    fleet.look()
    assert fleet.replicas[0].state == "down", "without the folder it would serve nothing"


def test_servers_that_are_full_are_busy_and_nobody_is_paid_for_it(stand: Stand) -> None:
    fleet = stand.fleet()
    talker = stand.load(fleet)
    stand.servers[0].full = True
    assert texts_of(ask(talker, *TEXTS))
    stand.servers[1].full = True
    (found,) = ask(talker, TEXTS[0])
    assert isinstance(found, StudentBusyError)
    assert [one.state for one in fleet.replicas] == ["up", "up"]


def test_layers_trained_in_full_come_into_service_by_a_server_that_was_started_anew_with_them(
    stand: Stand, tmp_path: Path
) -> None:
    fleet = stand.fleet()
    before = stand.load(fleet)
    wanted = texts_of(ask(before, *TEXTS))
    chatter = make_chatter(tmp_path / "full", full=True)
    (tmp_path / "whole").mkdir()
    stand.draft, stand.manifest = tmp_path / "whole", write_version(chatter, tmp_path / "full", tmp_path / "whole")
    name, opened = stand.publish()

    def load() -> RemoteTalker:
        return load_remote(opened, fleet, version=name, folder=stand.folder, device="cpu", precision="fp32")

    with pytest.raises(SwapRefusedError, match=rf"start it anew with --model .*{name} --served-model-name {name}"):
        load()
    assert texts_of(ask(before, *TEXTS)) == wanted  # the version before serves on
    fleet.drain(stand.servers[0].url)
    stand.servers[0].serve(stand.folder / name, name)
    fleet.resume(stand.servers[0].url)
    fleet.look()
    after = load()
    assert texts_of(ask(after, *TEXTS)) == [one.output for one in chatter.look([a_chat(text) for text in TEXTS])]
    assert {body["model"] for body in stand.servers[0].asked[-3:]} == {name}
    assert texts_of(ask(before, *TEXTS)) == wanted  # by the other one: going back is a pointer
    stand.servers[1].serve(stand.folder / name, name)
    fleet._leave(fleet.replicas[1], "down", "started anew")
    fleet.look()
    assert [one.state for one in fleet.replicas] == ["up", "up"]
    assert all(one.loaded == {name} or name in one.loaded for one in fleet.replicas)
    stand.servers[0].shift = -1.0  # other weights than it says
    fleet.release(name)
    with pytest.raises(SwapRefusedError, match="golden prompts"):
        load()


def test_the_least_loaded_server_that_has_the_version_is_asked(stand: Stand) -> None:
    fleet = stand.fleet()
    talker = stand.load(fleet)
    for busy, free in ((0, 1), (1, 0)):
        fleet.replicas[busy].in_flight, fleet.replicas[free].in_flight = 3, 1
        asked = [len(server.asked) for server in stand.servers]
        assert texts_of(ask(talker, TEXTS[0]))
        assert len(stand.servers[busy].asked) == asked[busy]
        assert len(stand.servers[free].asked) == asked[free] + 1
    fleet.replicas[0].loaded.clear()  # the free one does not know it
    asked = [len(server.asked) for server in stand.servers]
    assert texts_of(ask(talker, TEXTS[0]))
    assert [len(server.asked) for server in stand.servers] == [asked[0], asked[1] + 1]


def test_a_drained_server_gets_nothing_more(stand: Stand) -> None:
    fleet = stand.fleet()
    talker = stand.load(fleet)
    fleet.drain(stand.servers[0].url)
    asked = len(stand.servers[0].asked)
    ask(talker, *TEXTS)
    assert len(stand.servers[0].asked) == asked
    fleet.resume(stand.servers[0].url)
    fleet.look()
    assert fleet.replicas[0].state == "up"


def test_a_version_that_nobody_holds_any_more_is_unloaded_and_its_folder_stays(stand: Stand) -> None:
    fleet = stand.fleet()
    fleet.start()
    try:
        talker = stand.load(fleet)
        name = talker.name
        assert all(name in server.known for server in stand.servers)
        del talker
        gc.collect()
        until(lambda: all(name not in server.known for server in stand.servers))
        assert (stand.folder / name).is_dir()
    finally:
        fleet.close()


def test_a_name_is_never_loaded_over_another_adapter(stand: Stand) -> None:
    name, opened = stand.publish()
    target = stand.folder / name
    target.mkdir()
    (target / "adapter_model.safetensors").write_bytes(b"something else")
    with pytest.raises(CorruptVersionError, match="move it away"):
        load_remote(opened, stand.fleet(), version=name, folder=stand.folder, device="cpu", precision="fp32")
