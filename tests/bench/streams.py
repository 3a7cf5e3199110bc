"""Other streams for the learning benchmark, from banking77: `python -m tests.bench.streams DIR [--data FILE]`.

- `all.jsonl`: 4,000 questions of all 77 intents; the teacher is right.
- `rare.jsonl`: ten intents, one of them 2 % of the questions; the teacher is right.
- `noisy.jsonl`: the same ten, none of them rare, and a teacher that is wrong on 15 % of the questions, at random.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

DATA: Final = Path(__file__).parents[3] / "shared" / "data" / "banking77.jsonl"
_ROWS: Final = 4000
_EVERY: Final = 8  # intents are taken from all over the alphabet
_INTENTS: Final = 10
_RARE_RATIO: Final = 0.02
_WRONG_RATIO: Final = 0.15


def streams(rows: Sequence[Mapping[str, Any]], *, seed: int = 77) -> dict[str, list[dict[str, Any]]]:
    """The streams by name. Pure.

    Args:
        rows: with text and label.
        seed: of the order, and of the noisy teacher's errors.
    """
    rng = Random(seed)
    mixed = rng.sample(list(rows), len(rows))
    intents = sorted({row["label"] for row in rows})[::_EVERY][:_INTENTS]
    ten = [row for row in mixed if row["label"] in intents]
    frequent = [row for row in ten if row["label"] != intents[0]]
    rare = [row for row in ten if row["label"] == intents[0]][: round(_RARE_RATIO * len(frequent))]
    noisy = [
        _row(row, rng.choice([one for one in intents if one != row["label"]]) if rng.random() < _WRONG_RATIO else None)
        for row in ten
    ]
    few = [*frequent, *rare]
    return {
        "all": [_row(row) for row in mixed[:_ROWS]],
        "rare": [_row(row) for row in rng.sample(few, len(few))],
        "noisy": noisy,
    }


def _row(row: Mapping[str, Any], said: str | None = None) -> dict[str, Any]:
    return {"text": row["text"], "teacher": {"label": said or row["label"]}, "gold": row["label"]}


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description="streams from banking77")
    parser.add_argument("directory", type=Path, help="made where it is missing")
    parser.add_argument("--data", type=Path, default=DATA, help="JSONL with text and label")
    chosen = parser.parse_args()
    chosen.directory.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in chosen.data.read_text("utf-8").splitlines()]
    for name, stream in streams(rows).items():
        path = chosen.directory / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in stream), "utf-8")
        print(path, len(stream))  # noqa: T201 - says what it wrote


if __name__ == "__main__":
    main()
