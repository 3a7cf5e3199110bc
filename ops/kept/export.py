"""`understudy buffer export`: a copy of a lane's kept questions and answers, redacted as they are kept.

A row's split is the one that the next cycle holds it in, so that nobody trains elsewhere on what judges here; a row
that no cycle would draw now has none.
"""

import os
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final, Literal, get_args, get_origin

import msgspec
import redis
from msgspec.structs import fields

from ops.answers.kept import Kept, LaneItems, Selection
from ops.answers.reading import Reading
from ops.exits import RefusedError
from ops.sections import LaneSection
from ops.show.needed import need_parquet
from ops.site import Site
from ops.wiring.train import cycle_settings, lane_training
from store.event import INPUTS, Task, utc
from trainer.snapshot import Snapshot, Split
from trainer.work import settings_of

FileFormat = Literal["jsonl", "parquet"]
Kind = Literal["text", "texts", "int", "float", "json"]
STDOUT: Final = Path("-")
_BATCH: Final = 1000
_OF_ANY: Final[Mapping[str, Kind]] = {
    "answer": "json",
    "answers": "json",
    "state": "text",
    "label": "text",
    "split": "text",
    "ruling": "int",
    "asked": "int",
    "requests": "float",
    "first_asked": "text",
    "last_asked": "text",
}


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """What was written."""

    lane: str
    path: str
    format: FileFormat
    rows: int
    splits: dict[str, int]  # split -> rows; "none": rows that no cycle would draw now


def export(
    site: Site,
    client: redis.Redis,
    section: LaneSection,
    selection: Selection,
    *,
    path: Path,
    file_format: FileFormat,
    splits: Sequence[Split],
    now_s: float,
) -> Exported:
    """Write the chosen items, in one step: a file that is there is whole.

    Args:
        site: whose buffer.
        client: of its Redis.
        section: the lane.
        selection: which items.
        path: of a file that is not there yet; `-` is standard output.
        file_format: `jsonl`, or `parquet`, which needs the extra of that name.
        splits: of these alone; none: any.
        now_s: Unix seconds.

    Raises:
        RefusedError: the file is there already, or cannot be written.
        SettingsError: the extra is not installed.
        StoreUnavailableError: Redis does not answer.
        CorruptItemError: an item was written by another release.
    """
    if file_format == "parquet":
        need_parquet()
    if path.exists() and path != STDOUT:
        message = f"{path} is there already: name another file, or move it away"
        raise RefusedError(message)
    lane = replace(lane_items := LaneItems.of(site, client, section, now_s), kept=list(lane_items.kept))
    held = _splits(site, lane, now_s)
    counted: dict[str, int] = {}

    def rows() -> Iterator[dict[str, Any]]:
        ruled_by = lane.ruled_by()
        for one in lane.chosen(selection):
            split = held.get(one.item.item_id)
            if not splits or split in splits:
                counted[split or "none"] = counted.get(split or "none", 0) + 1
                yield _row(lane, one, split, ruled_by.get(one.item.item_id))

    write = _write_parquet if file_format == "parquet" else _write_lines
    with _opened(path) as file:
        write(file, rows(), _columns(section.task))
    return Exported(
        lane=str(section.lane), path=str(path), format=file_format, rows=sum(counted.values()), splits=counted
    )


def drawn_now(site: Site, lane: LaneItems, now_s: float) -> Snapshot:
    """The rows that a cycle of the lane would draw now (Unix seconds)."""
    from trainer.attempt import draw_rows  # noqa: PLC0415 - torch, which no other command on the buffer needs

    section = lane.section
    training = replace(lane_training(site.settings, section, Reading.of(section)), readings=lane.drawing.rules)
    settings = settings_of(training, cycle_settings(site.settings))
    return draw_rows(lane.kept, None, training=training, settings=settings, now_s=now_s, positions={})


def _splits(site: Site, lane: LaneItems, now_s: float) -> dict[str, Split]:
    """Item id -> the split that the next cycle would hold it in; what it would not draw is not there."""
    drawn = drawn_now(site, lane, now_s)
    rare: dict[str, Split] = dict.fromkeys(drawn.clusters, "train")  # what has too rare a label would be trained on
    return rare | {row.item_id: row.split for row in drawn.rows}


def _row(lane: LaneItems, one: Kept, split: Split | None, ruling: int | None) -> dict[str, Any]:
    item = one.item
    return {
        "item": item.item_id,
        "lane": str(lane.section.lane),
        "task": item.task,
        **{one.name: msgspec.to_builtins(getattr(item.input, one.name)) for one in fields(item.input)},
        "answer": lane.answer(one),
        "answers": msgspec.to_builtins(lane.answers_shown(one.answers)),
        "state": one.state,
        "label": one.label,
        "split": split,
        "ruling": ruling,
        "asked": item.count,
        "requests": item.mass,
        "first_asked": utc(item.first_asked_s).isoformat(),
        "last_asked": utc(item.last_asked_s).isoformat(),
    }


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A file that gets its name once it is whole."""
    if path == STDOUT:
        yield sys.stdout.buffer
        sys.stdout.flush()
        return
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with aside.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.rename(path)
    except OSError as error:
        message = f"{path} cannot be written: {error.strerror or error}"
        raise RefusedError(message) from error
    finally:
        with suppress(OSError):
            aside.unlink()


def _write_lines(file: BinaryIO, rows: Iterable[Mapping[str, Any]], columns: Mapping[str, Kind]) -> None:  # noqa: ARG001
    """A JSON object a line."""
    file.writelines(msgspec.json.encode(row) + b"\n" for row in rows)


def _write_parquet(file: BinaryIO, rows: Iterable[Mapping[str, Any]], columns: Mapping[str, Kind]) -> None:
    """Texts, numbers and lists of texts as such; anything else as its JSON."""
    import pyarrow as pa  # noqa: PLC0415 - of an extra
    from pyarrow import parquet  # noqa: PLC0415 - as above

    kinds = {"texts": pa.list_(pa.string()), "int": pa.int64(), "float": pa.float64()}
    schema = pa.schema([(name, kinds.get(kind, pa.string())) for name, kind in columns.items()])
    left = iter(rows)
    with parquet.ParquetWriter(file, schema) as writer:
        while batch := list(islice(left, _BATCH)):
            cells = [{name: _cell(kind, row[name]) for name, kind in columns.items()} for row in batch]
            writer.write_table(pa.Table.from_pylist(cells, schema=schema))


def _cell(kind: Kind, value: Any) -> Any:
    if kind == "json" and value is not None and not isinstance(value, str):
        return msgspec.json.encode(value).decode()
    return value


def _columns(task: Task) -> dict[str, Kind]:
    """What an export of a task holds, in its order."""
    asked = {one.name: _kind(one.type) for one in fields(INPUTS[task])}
    return {"item": "text", "lane": "text", "task": "text", **asked, **_OF_ANY}


def _kind(annotation: Any) -> Kind:
    plain = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    return "text" if plain is str else "texts" if plain == list[str] else "json"
