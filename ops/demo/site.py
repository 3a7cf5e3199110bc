"""The demo's own installation, made with `understudy init`, and what in it differs from production."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ops.demo.plan import INPUT_USD_PER_MTOK, OUTPUT_USD_PER_MTOK, DemoPlan
from ops.demo.tasks.play import DemoTraffic
from ops.demo.tasks.tasks import TASKS
from ops.init import init
from ops.sections import SHOWN
from ops.settings import SETTINGS_NAME, Settings
from store.errors import SettingsError

TEACHER_MODEL: Final = "recorded"
_CALLS_PER_DAY: Final = 20_000


def make_site(plan: DemoPlan) -> Path:
    """A fresh installation; its settings file.

    The folder is removed first: a demo that found an older demo's student would measure nothing.
    """
    shutil.rmtree(plan.state, ignore_errors=True)
    init(plan.state)
    return plan.state / SETTINGS_NAME


def configure(file: Path, plan: DemoPlan, lanes: Sequence[DemoTraffic], teacher_url: str) -> dict[str, Any]:
    """Set what the demo sets; every setting that now differs from its default, as {name: [production's, demo's]}.

    Args:
        file: as `make_site` wrote it.
        plan: the demo's.
        lanes: the traffic of each.
        teacher_url: of them all.
    """
    production = Settings.load(file)
    text = file.read_text("utf-8")
    own = [TASKS[traffic.task].settings(traffic, plan.kept) for traffic in lanes]
    shared = {name: value for settings in (_SHARED, *own) for name, value in settings.items() if not _of_lane(name)}
    for (table, key), value in shared.items():
        text = set_key(text, table, key, value)
    head, mark, lane = text.partition(_LANE_MARK)
    blocks = [
        mark
        + _lane(
            lane, mark, plan, traffic, teacher_url, {name: value for name, value in of_task.items() if _of_lane(name)}
        )
        for traffic, of_task in zip(lanes, own, strict=True)
    ]
    file.write_text(head + "\n".join(blocks), "utf-8")
    return differences(production, Settings.load(file))


_LANE_MARK: Final = "[[lanes]]"
_SHARED: Final[Mapping[tuple[str, str], Any]] = {  # what five minutes ask for
    ("gateway", "port"): 0,
    ("admin", "serve_port"): 0,
    ("admin", "ingest_port"): 0,
    ("admin", "train_port"): 0,
    ("trainer", "min_new_labels"): 100,
    ("trainer", "min_items_per_label"): 10,
    ("trainer", "fine_tune"): False,
    ("trainer", "quarantine_s"): 0.0,
    ("gate", "delta"): 0.05,
}


def _of_lane(name: tuple[str, str]) -> bool:
    return name[0].partition(".")[0] == "lanes"


def _lane(
    lane: str, mark: str, plan: DemoPlan, traffic: DemoTraffic, teacher_url: str, of_task: Mapping[tuple[str, str], Any]
) -> str:
    """One lane's tables, its own mark left out."""
    wanted: dict[tuple[str, str], Any] = {
        ("lanes", "tenant"): traffic.lane.tenant,
        ("lanes", "use_case"): traffic.lane.use_case,
        ("lanes", "task"): traffic.task,
        ("lanes", "labels"): None,
        ("lanes", "training_permitted"): True,
        ("lanes", "audit_ratio"): 0.15,
        ("lanes.promise", "target"): plan.target_of(traffic.task),
        ("lanes.budget", "calls_per_day"): _CALLS_PER_DAY,
        ("lanes.teacher", "base_url"): teacher_url,
        ("lanes.teacher", "model"): TEACHER_MODEL,
        ("lanes.teacher", "input_usd_per_mtok"): INPUT_USD_PER_MTOK,
        ("lanes.teacher", "output_usd_per_mtok"): OUTPUT_USD_PER_MTOK,
        **of_task,
    }
    text = mark + lane
    for (table, key), value in wanted.items():
        text = set_key(text, table, key, value)
    return text.removeprefix(mark)


def set_key(text: str, table: str, key: str, value: Any) -> str:
    """The settings file with one key set, commented out until then or not; None comments it out.

    Raises:
        SettingsError: the file has no such key.
    """
    header = re.search(rf"^\[+{re.escape(table)}\]+$", text, re.MULTILINE)
    end = re.compile(r"^\[", re.MULTILINE).search(text, header.end()) if header else None
    stop = end.start() if end else len(text)
    line = re.compile(rf"^#?{re.escape(key)} = .*$", re.MULTILINE).search(text, header.end(), stop) if header else None
    if line is None:
        message = f"the settings file has no key {table}.{key}"
        raise SettingsError(message)
    # JSON's strings, numbers, booleans and arrays are TOML's, too
    said = f"#{line[0].removeprefix('#')}" if value is None else f"{key} = {json.dumps(value, ensure_ascii=False)}"
    return f"{text[: line.start()]}{said}{text[line.end() :]}"


def differences(production: BaseModel, demo: BaseModel) -> dict[str, Any]:
    """Settings that differ, by dotted name, as {name: [production's, the demo's]}.

    What has no default (who a lane is, where its teacher is) is nobody's production setting and is left out.
    """
    return dict(_differing(production, demo, ""))


def _differing(production: BaseModel, demo: BaseModel, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, field in type(demo).model_fields.items():
        one, other = getattr(production, name), getattr(demo, name)
        if isinstance(other, BaseModel):
            yield from _differing(one, other, f"{prefix}{name}.")
        elif isinstance(other, tuple) and other and isinstance(other[0], BaseModel):
            for lane in other:
                yield from _differing(one[0], lane, f"{prefix}{name}.")
        elif one != other and not _named_by_everyone(field):
            yield f"{prefix}{name}", [_plain(one), _plain(other)]


def _named_by_everyone(field: FieldInfo) -> bool:
    extra = field.json_schema_extra
    return field.is_required() or (isinstance(extra, Mapping) and bool(extra.get(SHOWN)))


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | str | bool | None) else str(value)
