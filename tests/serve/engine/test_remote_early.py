"""A student on servers that says how sure it is before its answer is whole, and tells the answer while it comes."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serve.engine.forward import RemoteForward
from serve.engine.remote import RemoteTalker
from serve.student.executor import StudentFailedError
from serve.student.line import TooLong
from serve.student.slot import Slot
from serve.student.talk import Begun
from store.policy import Moment
from store.registry.manifest import Manifest
from store.student.chat.chatter import Chatter
from store.student.loaded import ChatOpinion
from tests.serve.engine.fake_vllm import FakeVllm
from tests.serve.engine.test_remote import Stand
from tests.serve.fakes import eventually
from tests.store.chat.versions import LONGEST, a_chat, early_of, make_chatter, write_version
from tests.store.drafts import make_versions

TEXT = "my parcel is late"
BOTH = pytest.mark.parametrize("moment", ["prompt", "first_tokens"])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Chatter, Path, Manifest]:
    folder, draft = tmp_path_factory.mktemp("student"), tmp_path_factory.mktemp("draft")
    chatter = make_chatter(folder, early=early_of())
    return folder, chatter, draft, write_version(chatter, folder, draft)


@pytest.fixture
def stand(written: tuple[Path, Chatter, Path, Manifest], tmp_path: Path) -> Iterator[Stand]:
    folder, chatter, draft, manifest = written
    servers = [FakeVllm(folder / "base").start()]
    versions, key = make_versions(tmp_path / "registry")
    (tmp_path / "adapters").mkdir()
    try:
        yield Stand(chatter, draft, manifest, servers, tmp_path / "adapters", versions, key)
    finally:
        for one in servers:
            one.stop()


def in_talk(talker: RemoteTalker, moment: Moment, step: Callable[[Any], Awaitable[None]], text: str = TEXT) -> None:
    """Begin an answer, and go on from there."""

    async def main() -> None:
        forward = RemoteForward(
            max_batch=32, max_tokens=4096, wait_s=0.0, timeout_s=5.0, line_wait_s=60.0, observe=lambda *_: None
        )
        try:
            await step(await forward.begin(Slot(version="v", student=talker), a_chat(text), moment))
        finally:
            for replica in talker.fleet.replicas:
                await replica.server.close()
                replica.server._client = None

    asyncio.run(main())


@BOTH
def test_it_is_as_sure_as_it_would_be_here_and_its_answer_comes_piece_by_piece(stand: Stand, moment: Moment) -> None:
    talker = stand.load(stand.fleet())
    (wanted,) = stand.chatter.look([a_chat(TEXT)])
    assert len(wanted.tokens) > 3
    asked = len(stand.servers[0].asked)

    async def step(begun: Begun) -> None:
        assert begun.view.confidence == pytest.approx(wanted.early[moment].confidence, abs=1e-4)
        assert len(stand.servers[0].asked) == asked + (0 if moment == "prompt" else 1)
        heard: list[str] = []
        found = await begun.talk.listen(heard.append)
        assert isinstance(found, ChatOpinion)
        assert (found.output, found.tokens) == (wanted.output, wanted.tokens)
        assert found.confidence == pytest.approx(wanted.confidence, abs=1e-4)
        assert len(heard) > (moment == "prompt")  # before that, it came while nobody listened
        assert all(found.output.startswith(text) for text in heard)

    assert talker.moments == ("prompt", "first_tokens")
    in_talk(talker, moment, step)


def test_it_is_viewed_before_its_answer_is_whole(stand: Stand) -> None:
    talker = stand.load(stand.fleet())
    stand.servers[0].turn = threading.Semaphore(3)

    async def step(begun: Begun) -> None:
        assert not begun.talk.whole.done()
        assert stand.servers[0].streamed == []
        assert stand.servers[0].turn is not None
        stand.servers[0].turn.release(100)
        assert isinstance(await begun.talk.listen(None), ChatOpinion)

    in_talk(talker, "first_tokens", step)


def test_one_that_is_dropped_is_ended_on_the_server(stand: Stand) -> None:
    talker = stand.load(stand.fleet())
    stand.servers[0].turn = threading.Semaphore(3)

    async def step(begun: Begun) -> None:
        begun.talk.drop()
        await eventually(lambda: stand.servers[0].streamed == [4])

    in_talk(talker, "first_tokens", step)
    assert [one.state for one in talker.fleet.replicas] == ["up"]


@BOTH
def test_a_server_that_breaks_off_fails_the_answer_and_no_other_goes_on(stand: Stand, moment: Moment) -> None:
    stand.servers.append(FakeVllm(stand.draft.parent / "none", decoder=stand.servers[0].decoder).start())
    talker = stand.load(stand.fleet())
    for server in stand.servers:
        server.breaks_after = 3
    asked = sum(len(server.asked) for server in stand.servers)

    async def step(begun: Begun) -> None:
        heard: list[str] = []
        with pytest.raises(StudentFailedError, match="broke off"):
            await begun.talk.listen(heard.append)
        assert heard

    in_talk(talker, moment, step)
    assert sum(len(server.asked) for server in stand.servers) == asked + 1


def test_a_server_that_does_not_begin_leaves_it_to_the_next_one(stand: Stand) -> None:
    stand.servers.append(FakeVllm(stand.draft.parent / "none", decoder=stand.servers[0].decoder).start())
    talker = stand.load(stand.fleet())
    stand.servers[0].poisoned = True

    async def step(begun: Begun) -> None:
        assert isinstance(await begun.talk.listen(None), ChatOpinion)

    for _ in range(2):
        in_talk(talker, "first_tokens", step)
    assert [one.state for one in talker.fleet.replicas] == ["poisoned", "up"]


@BOTH
def test_what_is_too_long_is_not_begun(stand: Stand, moment: Moment) -> None:
    talker = stand.load(stand.fleet())

    async def step(found: object) -> None:
        assert isinstance(found, TooLong)

    in_talk(talker, moment, step, "word " * LONGEST)
