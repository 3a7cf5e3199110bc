"""Which versions of the past have a say in a cycle: read from the registry, without a model."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from store.registry.manifest import SNAPSHOT_NAME, SnapshotRecord, Verdict
from store.registry.registry import Registry
from store.registry.sealed import OpenVersion
from store.registry.signing import SigningKey
from store.registry.versions import Versions
from store.student.classify import Student
from tests.store.drafts import LANE, make_draft, make_keys, make_manifest
from trainer import cycle
from trainer.judge.gate import Judged
from trainer.learn.recipe import Lineage, Rival
from trainer.work import CycleWork, LaneTraining


class Past:
    """A registry with versions of so many rows each, and the moves that they brought."""

    def __init__(self, folder: Path) -> None:
        self.key: SigningKey
        self.key, trusted = make_keys(folder / "keys")
        self.folder = folder
        self.registry = Registry(folder / "registry", trusted)

    @property
    def versions(self) -> Versions:
        return self.registry.versions(LANE)

    def publish(self, rows: int | None, files: dict[str, bytes] | None = None, **changes: Any) -> str:
        """A version that was made of so many rows; None: elsewhere, and nobody knows."""
        draft = make_draft(self.folder / f"draft {rows} {len(self.versions.list())}", head=str(rows).encode())
        for name, content in (files or {}).items():
            (draft / name).write_bytes(content)
        made_of = None if rows is None else record(rows)
        manifest = make_manifest(snapshot=made_of, verdict=verdict(f"{rows} rows"), **changes)
        return self.versions.publish(draft, manifest, self.key)

    def move(self, kind: Any, version: str | None, *, anchor: bool = False) -> None:
        self.registry.moves(LANE).append(
            kind, version=version, anchor=anchor, who="trainer", why="test", key=self.key, now_s=1.0
        )

    def lineage(self, champion: str | None = None, anchor: str | None = None) -> Lineage:
        settings = SimpleNamespace(device="cpu", precision="fp32")
        training = LaneTraining(lane=LANE, task="classify", prompt_version="m@p", target=0.9, confidence=0.95)
        work = SimpleNamespace(training=training, settings=settings, champion=champion, anchor=anchor)
        opened = self.versions.open(champion) if champion is not None else None
        return cycle.lineage_of(cast("CycleWork", work), self.registry.moves(LANE).read(), self.versions, opened)


def record(rows: int) -> SnapshotRecord:
    return SnapshotRecord(
        sha256="0" * 64,
        rows=rows,
        train=rows // 2,
        calibrate=rows // 4,
        judge=rows // 4,
        clusters=rows,
        contrasts=0,
        moved_linked=0,
        prompt_version="m@p",
        positions={},
    )


def verdict(why: str) -> Verdict:
    return Verdict(
        outcome="pass",
        phase="growth",
        refusals=[why],
        rows_judged=100,
        student_agreement=0.9,
        difference=0.0,
        lower=0.0,
        upper=0.0,
        delta=0.02,
        rows_needed=0,
        slices=[],
    )


@pytest.fixture
def past(tmp_path: Path) -> Past:
    return Past(tmp_path)


def judged(rows: int) -> Judged:
    return Judged(labels=rows, verdict=verdict(f"{rows} rows"))


def test_the_history_is_of_the_promoted_versions_alone_in_their_order(past: Past) -> None:
    one, two, three, four = (past.publish(rows) for rows in (400, 100, 200, 300))
    past.move("promote", one)
    past.move("submit", two)
    past.move("decline", two)
    past.move("promote", three)
    past.move("pin", None)
    past.move("rollback", one)
    past.move("resume", None)
    past.move("decline", four)
    past.move("promote", four)
    assert list(past.lineage().history) == [judged(400), judged(200), judged(300)]


def test_a_version_that_nobody_has_judged_or_that_was_made_elsewhere_has_no_say(past: Past) -> None:
    elsewhere = past.publish(None)
    past.move("promote", elsewhere)
    assert past.lineage().history == []


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version in memory is its id: no weights are read."""

    def by_id(opened: OpenVersion, _: CycleWork) -> Rival:
        return cast("Rival", opened.id)

    monkeypatch.setattr(cycle, "rival_of", by_id)


@pytest.mark.usefixtures("loaded")
def test_the_anchor_is_loaded_where_it_is_another_version_than_the_champion(past: Past) -> None:
    one, two = past.publish(100), past.publish(200)

    def loaded(champion: str | None = None, anchor: str | None = None) -> list[object]:
        found = past.lineage(champion, anchor)
        return [found.champion, found.anchor]

    assert loaded(champion=two, anchor=one) == [two, one]
    assert loaded(champion=two, anchor=two) == [two, None]
    assert loaded(champion=two) == [two, None]
    assert loaded() == [None, None]


def test_a_rival_has_learned_the_training_rows_of_its_snapshot(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Student, "load", lambda *_, **__: None)
    rows = [
        {"id": f"{number}", "split": split} for number, split in enumerate(("train", "judge", "calibrate", "train"))
    ]
    snapshot = msgspec.json.encode({"rows": rows})
    version = past.publish(4, {SNAPSHOT_NAME: snapshot})
    rival = past.lineage(champion=version).champion
    assert rival is not None
    assert rival.trained == {"0", "3"}
    unknown = past.lineage(champion=past.publish(None)).champion
    assert unknown is not None
    assert unknown.trained == frozenset()
