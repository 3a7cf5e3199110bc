"""The settings of an installation that is small enough for a test: free ports, one CPU, a student after a few rows."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

Values = Mapping[str, object]  # dotted name -> a text, a number, a list of these

_SMALL: Final[dict[str, object]] = {
    "state_dir": "state",
    "gateway.port": 0,
    "admin.serve_port": 0,
    "admin.ingest_port": 0,
    "admin.train_port": 0,
    "trainer.max_tokens": 32,
    "trainer.device": "cpu",
    "trainer.precision": "fp32",
}
LEARNS_AT_ONCE: Final[dict[str, object]] = {  # what it is told, and only when it is asked to
    "trainer.quarantine_s": 0.0,
    "trainer.min_new_labels": 100_000,
    "split.calibrate_ratio": 0.25,
    "split.judge_ratio": 0.2,
    "gate.min_rows": 30,
    "gate.delta": 0.05,
}
_LANE: Final[dict[str, object]] = {
    "tenant": "acme",
    "training_permitted": True,
    "budget.calls_per_day": 1000,
    "teacher.model": "big",
}


def small_site(encoder: Path, values: Values, *lanes: Values) -> str:
    """The text of a settings file.

    Args:
        encoder: the trainer's.
        values: of the installation; they take the place of `_SMALL`'s.
        lanes: of each its `use_case`, `task` and `teacher.base_url` at least; they take the place of `_LANE`'s.
    """
    tables = [_lines({**_SMALL, "trainer.encoder": str(encoder), **values})]
    tables += [f"[[lanes]]\n{_lines({**_LANE, **lane})}" for lane in lanes]
    return "\n".join(tables)


def _lines(values: Values) -> str:
    """Each value on a line of its own: what JSON writes of texts, numbers and lists of them is TOML as well."""
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
