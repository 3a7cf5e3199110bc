"""Each tutorial is played from an empty folder, block by block, with real processes and a teacher on loopback."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.docs.newcomer import Newcomer, needs
from tests.docs.pages import Block, all_blocks_of
from tests.ops.proxied import FakeTeacher, serving
from tests.tiny_decoders import tiny_decoder

pytestmark = pytest.mark.timeout(900)  # a quarter of a minute each, and a slow machine


@pytest.fixture
def teacher() -> Iterator[str]:
    """A teacher of every kind; its address."""
    with serving(FakeTeacher(said="delivery").app()) as port:
        yield f"http://127.0.0.1:{port}/v1"


def edit(settings: Path, **values: str) -> None:
    """What the page tells its reader to do in the settings; and free ports, since others may have the usual ones."""
    text = settings.read_text("utf-8")
    for name, value in {**values, "port": "0", "serve_port": "0", "ingest_port": "0", "train_port": "0"}.items():
        text, found = re.subn(rf"(?m)^#?{name} = .*$", f"{name} = {value}", text, count=1)
        assert found == 1, f"{name} is not there"
    settings.write_text(text, "utf-8")


def played(reader: Newcomer, blocks: Iterator[Block], until_line: str = "") -> Block | None:
    """Type blocks as they stand until one that holds a line; it."""
    for block in blocks:
        if until_line and until_line in block.body:
            return block
        done = reader.types(block.body)
        assert done.returncode == block.code, block.body + done.stdout + done.stderr
    return None


@contextmanager
def told_and_started(folder: Path, task: str, **settings: str) -> Iterator[tuple[Newcomer, Iterator[Block]]]:
    """A task's tutorial up to where all processes run, with the settings told as its page says; and what comes next."""
    reader, blocks = Newcomer(folder), iter(all_blocks_of(f"docs/tutorials/{task}.md"))
    assert reader.types(next(blocks).body).returncode == 0
    (file,) = folder.glob("*/understudy.toml")
    edit(file, **settings)
    run = played(reader, blocks, "understudy run all")
    assert run is not None
    with reader.starts(run.body):
        yield reader, blocks


def test_the_tutorial_of_classify(tmp_path: Path, teacher: str) -> None:
    needs("curl")
    settings = {"base_url": f'"{teacher}"', "api_key_env": '"OPENAI_API_KEY"'}
    with told_and_started(tmp_path, "classify", **settings) as (reader, blocks):
        asked = reader.types(next(blocks).body)
        assert asked.returncode == 0, asked.stdout + asked.stderr
        (said,) = json.loads(asked.stdout.splitlines()[-1])["data"]
        assert (said["label"], said["served_by"], said["reason"]) == ("delivery", "teacher", "cold")
        assert played(reader, blocks) is None


@pytest.mark.long  # classify's is played each time; of this one what needs no process is, in test_commands
def test_the_tutorial_of_rank(tmp_path: Path, teacher: str) -> None:
    needs("curl")
    settings = {"base_url": f'"{teacher}"', "api_key_env": '"RERANK_API_KEY"'}
    with told_and_started(tmp_path, "rank", **settings) as (reader, blocks):
        asked = reader.types(next(blocks).body)
        assert asked.returncode == 0, asked.stdout + asked.stderr
        said = json.loads(asked.stdout)
        assert (len(said["results"]), said["served_by"], said["reason"]) == (1, "teacher", "cold")
        assert played(reader, blocks) is None


@pytest.mark.long  # classify's is played each time; of this one what needs no process is, in test_commands
def test_the_tutorial_of_chat(tmp_path: Path, teacher: str) -> None:
    model = tiny_decoder(tmp_path / "model")
    settings = {"base_url": f'"{teacher}"', "api_key_env": '"OPENAI_API_KEY"', "model": f'"{model}"'}
    with told_and_started(tmp_path, "chat", **settings) as (reader, blocks):
        program = next(blocks)
        assert program.language == "python"
        asked = reader.runs(program.body + "print(said.model_dump_json())")
        assert asked.returncode == 0, asked.stdout + asked.stderr
        said = json.loads(asked.stdout)
        assert (said["choices"][0]["message"]["content"], said["understudy"]["reason"]) == ("delivery", "cold")
        assert played(reader, blocks, "understudy show VERSION") is not None  # none could be certified from two rows
