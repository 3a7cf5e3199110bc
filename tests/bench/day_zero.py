"""Day zero: `python -m tests.bench.day_zero [--data FILE] [--rows 1000] [--json]`.

A fresh installation with the shipped settings (MiniLM, fine-tuning on) whose ingest, trainer and gateway run and have
nothing to serve. `understudy import` brings a log of ten intents, and a client asks questions that the log does not
have, until the student answers one. Seconds from the start of the import: of the wall clock, in which other work on the
machine counts, and of the CPU that the import, the processes and their children took, in which it hardly does. Prints
one JSON object as its last line.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, Final

import httpx

from ops.state.run_files import read_run_file
from tests.integration.rig import Rig, rig
from tests.ops.sites import LANE, open_site

DATA: Final = Path(__file__).parents[3] / "shared/data/banking77.jsonl"
INTENTS: Final = 10
PAUSE_S: Final = 0.1


def measure(data: Path, rows: int, folder: Path) -> dict[str, Any]:
    """Import so many rows into a fresh installation, and ask until its student answers."""
    questions = _questions(data)
    log = folder / "answers.jsonl"
    log.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in questions[:rows]))
    labels = sorted({label for _, label in questions})
    with rig(folder / "rig", labels=json.dumps(labels)) as one:
        one.teacher.label = labels[0]
        one.start("ingest", "train", "serve")
        one.until("the gateway answers", lambda: one.ask() == httpx.codes.OK)
        began_s, began_cpu_s = time.monotonic(), _cpu_s(os.getpid())
        one.command("import", str(log))
        imported_s = time.monotonic() - began_s
        asked = _until_the_student_answers(one, [text for text, _ in questions[rows:]])
        first_s, first_cpu_s = time.monotonic() - began_s, _cpu_s(os.getpid()) - began_cpu_s
        versions = open_site(one.settings).registry.versions(LANE).list()
    return {
        "rows": rows,
        "import_s": round(imported_s, 1),
        "first_student_answer_s": round(first_s, 1),
        "first_student_answer_cpu_s": round(first_cpu_s, 1),
        "asked": asked,
        "versions": len(versions),
        "load": round(os.getloadavg()[0], 1),
    }


def _questions(data: Path) -> list[tuple[str, str]]:
    """Text and label of the most frequent intents, in one shuffled order."""
    rows = [json.loads(line) for line in data.read_text("utf-8").splitlines()]
    kept = {label for label, _ in Counter(row["label"] for row in rows).most_common(INTENTS)}
    questions = [(row["text"], row["label"]) for row in rows if row["label"] in kept]
    random.Random(0).shuffle(questions)
    return questions


def _until_the_student_answers(one: Rig, texts: Sequence[str]) -> int:
    found = read_run_file(open_site(one.settings).run_directory, "serve")
    assert found is not None
    url = f"http://127.0.0.1:{found.port}/classify"
    for asked, text in enumerate(cycle(texts), 1):
        answer = httpx.post(url, json={"model": LANE.use_case, "input": text}, timeout=60.0).json()
        if answer["data"][0]["served_by"] == "student":
            return asked
        time.sleep(PAUSE_S)
    message = f"the file has too few questions of {INTENTS} intents"
    raise ValueError(message)


def _cpu_s(pid: int) -> float:
    """CPU-seconds of a process and all below it, those that have ended included."""
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    below = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(child) for path in below for child in path.read_text().split()]
    return sum(map(int, stat[11:15])) / os.sysconf("SC_CLK_TCK") + sum(map(_cpu_s, children))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="from an import to the student's first answer")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--json", action="store_true", help="the JSON line alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options.data, options.rows, Path(folder))
    if not options.json:
        for name, value in found.items():
            sys.stdout.write(f"{name:24} {value}\n")
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
