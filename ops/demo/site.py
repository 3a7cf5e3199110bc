"""The demo's own installation, made with `understudy init`, and what in it differs from production."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ops.demo.plan import INPUT_USD_PER_MTOK, LANE, OUTPUT_USD_PER_MTOK, DemoPlan, DemoTraffic
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


def configure(file: Path, plan: DemoPlan, traffic: DemoTraffic, teacher_url: str) -> dict[str, Any]:
    """Set what the demo sets; every setting that now differs from its default, as {name: [production's, demo's]}."""
    production = Settings.load(file)
    text = file.read_text("utf-8")
    for (table, key), value in _wanted(plan, traffic, teacher_url).items():
        text = set_key(text, table, key, value)
    file.write_text(text, "utf-8")
    return differences(production, Settings.load(file))


def _wanted(plan: DemoPlan, traffic: DemoTraffic, teacher_url: str) -> dict[tuple[str, str], Any]:
    """What the demo sets: who the lane is, and what five minutes ask for."""
    return {
        ("gateway", "port"): 0,
        ("admin", "serve_port"): 0,
        ("admin", "ingest_port"): 0,
        ("admin", "train_port"): 0,
        ("trainer", "min_new_labels"): 100,
        ("trainer", "min_items_per_label"): 10,
        ("trainer", "fine_tune"): False,
        ("trainer", "quarantine_s"): 0.0,
        ("gate", "delta"): 0.05,
        ("lanes", "tenant"): LANE.tenant,
        ("lanes", "use_case"): LANE.use_case,
        ("lanes", "labels"): list(traffic.labels),
        ("lanes", "training_permitted"): True,
        ("lanes", "audit_ratio"): 0.15,
        ("lanes.promise", "target"): plan.target,
        ("lanes.budget", "calls_per_day"): _CALLS_PER_DAY,
        ("lanes.teacher", "base_url"): teacher_url,
        ("lanes.teacher", "model"): TEACHER_MODEL,
        ("lanes.teacher", "input_usd_per_mtok"): INPUT_USD_PER_MTOK,
        ("lanes.teacher", "output_usd_per_mtok"): OUTPUT_USD_PER_MTOK,
    }


def set_key(text: str, table: str, key: str, value: Any) -> str:
    """The settings file with one key set, commented out until then or not.

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
    return f"{text[: line.start()]}{key} = {json.dumps(value, ensure_ascii=False)}{text[line.end() :]}"


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
            yield from _differing(one[0], other[0], f"{prefix}{name}.")
        elif one != other and not _named_by_everyone(field):
            yield f"{prefix}{name}", [_plain(one), _plain(other)]


def _named_by_everyone(field: FieldInfo) -> bool:
    extra = field.json_schema_extra
    return field.is_required() or (isinstance(extra, Mapping) and bool(extra.get(SHOWN)))


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | str | bool | None) else str(value)
