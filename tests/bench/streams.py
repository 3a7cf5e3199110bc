"""Other streams for the learning benchmark: `python -m tests.bench.streams DIR [--data FOLDER]`.

- `all.jsonl`: 4,000 questions of all 77 intents; the teacher is right.
- `rare.jsonl`: ten intents, one of them 2 % of the questions; the teacher is right.
- `noisy.jsonl`: the same ten, none of them rare, and a teacher that is wrong on 15 % of the questions, at random.
- `tools.jsonl`: 3,000 questions for one of 24 tools; the teacher is a 110 M model, which is wrong where it is hard.
- `people.jsonl`: the texts of ISEAR, and for a teacher the people who wrote them.
- `guilt.jsonl`: the texts and the teacher of ISEAR, asked only whether it is guilt: two labels, one of them at 16 %.

The first three are of banking77's questions.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

DATA: Final = Path(__file__).parents[3] / "shared" / "data"
_ROWS: Final = 4000
_EVERY: Final = 8  # intents are taken from all over the alphabet
_INTENTS: Final = 10
_RARE_RATIO: Final = 0.02
_WRONG_RATIO: Final = 0.15


def streams(rows: Sequence[Mapping[str, Any]], *, seed: int = 77) -> dict[str, list[dict[str, Any]]]:
    """The streams of questions with an intent, by name. Pure.

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

    def noisy(right: str) -> str:
        return rng.choice([one for one in intents if one != right]) if rng.random() < _WRONG_RATIO else right

    few = [*frequent, *rare]
    wrong_at_times = [_row(row["text"], said=noisy(row["label"]), gold=row["label"]) for row in ten]
    return {
        "all": [_right(row["text"], row["label"]) for row in mixed[:_ROWS]],
        "rare": [_right(row["text"], row["label"]) for row in rng.sample(few, len(few))],
        "noisy": wrong_at_times,
    }


def tools(chats: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The stream of last messages that were answered with one JSON tool call: which tool? Pure."""
    return [
        _row(
            chat["messages"][-1]["content"],
            said=json.loads(chat["teacher"]["text"])["tool"],
            gold=json.loads(chat["gold"])["tool"],
        )
        for chat in chats
    ]


def people(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The stream whose teacher gives the true labels of another one. Pure."""
    return [_right(row["text"], row["gold"]) for row in rows]


def one_label(rows: Sequence[Mapping[str, Any]], label: str) -> list[dict[str, Any]]:
    """The stream with every other label of another one made `other`. Pure."""

    def asked(answer: str) -> str:
        return answer if answer == label else "other"

    return [_row(row["text"], said=asked(row["teacher"]["label"]), gold=asked(row["gold"])) for row in rows]


def _right(text: str, gold: str) -> dict[str, Any]:
    return _row(text, said=gold, gold=gold)


def _row(text: str, *, said: str, gold: str) -> dict[str, Any]:
    return {"text": text, "teacher": {"label": said}, "gold": gold}


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description="other streams for the learning benchmark")
    parser.add_argument("directory", type=Path, help="made where it is missing")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the public data")
    chosen = parser.parse_args()
    chosen.directory.mkdir(parents=True, exist_ok=True)
    feelings = _read(chosen.data / "isear.jsonl")
    made = {
        **streams(_read(chosen.data / "banking77.jsonl")),
        "tools": tools(_read(chosen.data / "tool_chat.jsonl")),
        "people": people(feelings),
        "guilt": one_label(feelings, "guilt"),
    }
    for name, stream in made.items():
        path = chosen.directory / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in stream), "utf-8")
        print(path, len(stream))  # noqa: T201 - says what it wrote


if __name__ == "__main__":
    main()
