"""Documents of a catalogue are embedded once, kept whole, and in the memory of gateways before anybody asks."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from ops.cli.app import app
from ops.exits import REFUSED
from ops.imports.catalogues import read_documents
from ops.settings import Settings
from ops.wiring.priming import Primer, folder_of
from store.errors import CorruptVersionError, SettingsError
from store.student.encoder import Encoder, FloatArray
from store.student.rank import catalogue
from store.student.rank.catalogue import Catalogue, Priming
from store.student.rank.vectors import sentence_vectors
from store.tasks.rank import document_key
from tests.ops.sites import make_site
from tests.tiny import tiny_encoder

DOCUMENTS = [f"card {n} payment" for n in range(5)]


@dataclass
class Cache:
    """What a gateway keeps vectors in."""

    encoder: Encoder
    most: int = 1000
    held: dict[str, FloatArray] = field(default_factory=dict)

    def prime(self, keys: Sequence[str], vectors: FloatArray) -> None:
        self.held |= dict(zip(keys, vectors, strict=True))


@dataclass
class Student:
    """A version with vectors of documents."""

    vectors: Cache


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    folder = tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny")
    return Encoder.load(folder, device="cpu", precision="fp32", max_tokens=48)


def load(folder: Path, encoder: Encoder, documents: Sequence[str] = DOCUMENTS) -> list[tuple[int, int]]:
    """Load them; what was told of it."""
    told: list[tuple[int, int]] = []
    Catalogue(folder).load(documents, encoder, name="tiny", now_s=1_700_000_000.0, seen=lambda *at: told.append(at))
    return told


def test_each_document_is_embedded_once_and_kept_as_the_encoder_gives_it(tmp_path: Path, encoder: Encoder) -> None:
    assert load(tmp_path, encoder, [*DOCUMENTS, *DOCUMENTS])[-1] == (5, 5)
    cache = Cache(encoder)
    assert Priming(Catalogue(tmp_path)).look(cache) == 5
    found = np.stack([cache.held[document_key(text)] for text in DOCUMENTS])
    assert np.array_equal(found, sentence_vectors(encoder, DOCUMENTS))


def test_a_catalogue_takes_the_place_of_the_one_before_and_computes_only_what_is_new(
    tmp_path: Path, encoder: Encoder
) -> None:
    load(tmp_path, encoder)
    assert load(tmp_path, encoder, [*DOCUMENTS[3:], "a new card"])[-1] == (1, 1)
    cache = Cache(encoder)
    Priming(Catalogue(tmp_path)).look(cache)
    assert set(cache.held) == {document_key(text) for text in (*DOCUMENTS[3:], "a new card")}
    assert [one.documents for one in Catalogue(tmp_path).held()] == [3]


def test_a_load_that_was_stopped_goes_on_where_it_was_and_leaves_the_catalogue_before_it(
    tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(tmp_path, encoder, ["what was before"])
    monkeypatch.setattr(catalogue, "_SHARD", 2)

    def stopped(done: int, _of: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Catalogue(tmp_path).load(DOCUMENTS, encoder, name="tiny", now_s=1.0, seen=stopped)
    assert [one.documents for one in Catalogue(tmp_path).held()] == [1]
    assert load(tmp_path, encoder) == [(0, 1), (1, 1)]
    assert [one.documents for one in Catalogue(tmp_path).held()] == [5]
    assert not list(tmp_path.glob("*.partial"))


def test_another_encoder_has_a_file_of_its_own(tmp_path: Path, encoder: Encoder) -> None:
    folder = tiny_encoder(tmp_path / "encoder", seed=7)
    other = Encoder.load(folder, device="cpu", precision="fp32", max_tokens=48)
    load(tmp_path / "kept", encoder)
    assert Priming(Catalogue(tmp_path / "kept")).look(Cache(other)) == 0
    load(tmp_path / "kept", other, DOCUMENTS[:2])
    assert sorted(one.documents for one in Catalogue(tmp_path / "kept").held()) == [2, 5]


def test_vectors_of_another_encoder_are_taken_by_none_whatever_the_file_is_called(
    tmp_path: Path, encoder: Encoder
) -> None:
    other = Encoder.load(tiny_encoder(tmp_path / "encoder", seed=7), device="cpu", precision="fp32", max_tokens=48)
    kept = Catalogue(tmp_path / "kept")
    load(tmp_path / "kept", other)
    kept.path(other).rename(kept.path(encoder))
    with pytest.raises(CorruptVersionError, match="another encoder"):
        Priming(kept).look(Cache(encoder))
    assert load(tmp_path / "kept", encoder)[-1] == (5, 5)  # none of them was taken for its own


def test_no_cache_takes_more_than_it_can_hold(tmp_path: Path, encoder: Encoder) -> None:
    load(tmp_path, encoder)
    cache = Cache(encoder, most=2)
    assert Priming(Catalogue(tmp_path)).look(cache) == 2
    assert set(cache.held) == {document_key(text) for text in DOCUMENTS[:2]}


def test_a_cache_is_primed_again_when_the_file_has_changed_and_only_then(tmp_path: Path, encoder: Encoder) -> None:
    priming, cache = Priming(Catalogue(tmp_path)), Cache(encoder)
    assert (priming.look(cache), priming.changed(cache)) == (0, False)
    load(tmp_path, encoder)
    assert priming.changed(cache)
    assert [priming.look(cache) for _ in range(2)] == [5, 0]
    assert priming.look(Cache(encoder), fresh=True) == 5
    load(tmp_path, encoder, DOCUMENTS[:3])
    assert [priming.look(cache) for _ in range(2)] == [3, 0]


@pytest.mark.parametrize("damage", [b"", b"no catalogue", None])
def test_a_damaged_catalogue_is_named_once_and_made_anew(
    tmp_path: Path, encoder: Encoder, damage: bytes | None
) -> None:
    load(tmp_path, encoder)
    path = Catalogue(tmp_path).path(encoder)
    path.write_bytes(path.read_bytes()[:-4] if damage is None else damage)
    priming = Priming(Catalogue(tmp_path))
    with pytest.raises(CorruptVersionError, match="catalogue load"):
        priming.look(Cache(encoder))
    assert priming.look(Cache(encoder)) == 0
    assert Catalogue(tmp_path).held() == []
    assert load(tmp_path, encoder)[-1] == (5, 5)
    assert priming.look(Cache(encoder)) == 5


def test_a_gateway_primes_what_it_loads_and_again_after_a_change(tmp_path: Path, encoder: Encoder) -> None:
    primer, cache = Primer(tmp_path), Cache(encoder)
    primer.look()
    primer.loaded(object())  # a student without vectors of documents
    load(tmp_path, encoder, DOCUMENTS[:2])
    primer.loaded(Student(cache))
    assert len(cache.held) == 2
    load(tmp_path, encoder)
    primer.look()
    assert primer._thread is not None
    primer._thread.join(60)
    assert len(cache.held) == 5
    again = Cache(encoder)
    primer.loaded(Student(again))
    assert len(again.held) == 5
    Catalogue(tmp_path).path(encoder).write_bytes(b"damaged")
    primer.loaded(Student(Cache(encoder)))  # said in the log; nobody waits for a catalogue


@pytest.mark.parametrize(
    ("text", "documents"),
    [
        ('"card"\n"cash"\n', ["card", "cash"]),
        ('["card", "cash"]', ["card", "cash"]),
        ('{"text": "card"}\n{"id": 5, "text": "cash"}\n', ["card", "cash"]),
        ("id,text\n1,card\n2,cash\n", ["card", "cash"]),
        ('{"text": "card"}\n{"name": "x"}\n\n5\nnot JSON\n{"content": "cash"}\n', ["card", "cash"]),
        ('{"text": "ask joe@example.org"}\n', ["ask"]),
    ],
)
def test_documents_are_read_in_every_shape_and_redacted(tmp_path: Path, text: str, documents: list[str]) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text(text)
    assert [
        one.split(" <")[0].split(" [")[0].split("joe")[0].strip() for one in read_documents(path, b"k").texts
    ] == documents


def test_a_file_without_documents_says_what_one_is(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text('{"name": "x"}\n')
    with pytest.raises(SettingsError, match=r"no row is a document.*line 1: no text in it"):
        read_documents(path, b"k")


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    tiny_encoder(tmp_path / "encoder")
    path = make_site(
        tmp_path / "site", encoder=f'"{tmp_path / "encoder"}"', device='"cpu"', precision='"fp32"', max_tokens="48"
    )
    text = path.read_text().replace('#task = "classify"', 'task = "rank"').replace("$text", "$query")
    path.write_text(text)
    (path.parent / "prompts" / "classify.txt").write_text("Order $documents by how well they answer $query.")
    return path


def call(*arguments: Any) -> Result:
    return CliRunner().invoke(app, ["catalogue", *map(str, arguments)])


def test_the_command_says_what_it_did_and_show_what_is_there(tmp_path: Path, settings: Path) -> None:
    items = tmp_path / "items.jsonl"
    items.write_text('{"id": 1, "text": "card"}\n{"text": "cash"}\n{"no": 1}\n"card"\n')
    shown = call("show", "-c", settings)
    assert (shown.exit_code, "has no catalogue" in shown.stderr) == (1, True)
    made = call("load", items, "-c", settings, "-o", "json")
    assert made.exit_code == 0, made.output
    found = json.loads(made.stdout)
    assert (found["rows"], found["computed"], found["skipped"]) == (3, 2, 1)
    assert found["bad"] == [{"line": 3, "why": "no text in it"}]
    assert json.loads(call("load", items, "-c", settings, "-o", "json").stdout)["computed"] == 0
    (kept,) = json.loads(call("show", "-c", settings, "-o", "json").stdout)
    assert (kept["lane"], kept["encoder"], kept["documents"]) == ("acme/support", "encoder", 2)
    table = call("show", "-c", settings)
    assert (table.exit_code, "encoder" in table.stdout) == (0, True)
    read = Settings.load(settings)
    assert list(folder_of(read, read.lanes[0]).glob("*.safetensors"))


def test_a_lane_of_labels_has_no_catalogue(tmp_path: Path) -> None:
    path = make_site(tmp_path / "site")
    items = tmp_path / "items.jsonl"
    items.write_text('"card"\n')
    for command in (["load", items], ["show"]):
        refused = call(*command, "-c", path)
        assert refused.exit_code == REFUSED
        assert "a catalogue is of documents that are ranked" in refused.stderr
