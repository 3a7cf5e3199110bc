"""Are the tests able to notice? `make mutants` breaks the pure modules in hundreds of small ways and counts.

mutmut makes the mutants in a copy, `.cache/mutants`, and runs for each the tests that reach its function. A survivor
that changes nothing a caller can see is named in `tests/mutants_judged.json` with the reason; the others are holes in
the tests, and are printed, as are names that no survivor bears any more. One module at a time while working on it:
`python -m tests.mutants 'trainer.due.*'`.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
WORK: Final = ROOT / ".cache" / "mutants"
JUDGED: Final = Path(__file__).with_name("mutants_judged.json")
LEAST_NOTICED: Final = 0.9
_ENDED: Final = re.compile(r"^ *(\S+__mutmut_\d+): (.+)$", re.MULTILINE)
_DIFFS: Final = """
import json, sys
from mutmut.mutation.diff_apply import get_diff_for_mutant
print(json.dumps([get_diff_for_mutant(name) for name in sys.argv[1:]]))
"""
# mutmut gives up on a mutant by the wall clock as well, and on a busy machine that would count as noticed: here by
# processor time alone, and pytest-timeout ends the process of a test that waits for ever.
_RUN: Final = """
import sys
from mutmut.workers import isolation
isolation.register_timeout = lambda **_: None
from mutmut.__main__ import cli
sys.exit(cli())
"""
_NOTICED: Final = frozenset({"killed", "timeout", "caught by type check"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Survivor:
    """A mutant that no test noticed."""

    where: str  # module and function
    was: str
    becomes: str


def main() -> int:
    """Run and print; 1 where a survivor is judged by nobody, a judgement is of none, or too few mutants are noticed."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="mutants to try, as patterns (default: all)")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--children", type=int, default=2, help="mutants tried at once")
    options = parser.parse_args()
    if not options.names:
        shutil.rmtree(WORK, ignore_errors=True)  # what was noticed before counts for nothing: the tests have changed
    _copy()
    log = WORK / "run.log"
    with log.open("wb") as file:
        done = _mutmut(
            "run", "--max-children", str(options.children), *options.names, stdout=file, stderr=subprocess.STDOUT
        )
    ended = {name: status for name, status in _results().items() if _wanted(name, options.names)}
    if done.returncode or not ended or any(status == "not checked" for status in ended.values()):
        print(f"mutmut ended with {done.returncode} and did not try all mutants: see {log}", file=sys.stderr)  # noqa: T201
        return 2
    survivors = _survivors([name for name, status in ended.items() if status not in _NOTICED])
    judged = {(one["where"], one["was"], one["becomes"]) for one in json.loads(JUDGED.read_text("utf-8"))}
    holes = [one for one in survivors if (one.where, one.was, one.becomes) not in judged]
    stale = set() if options.names else judged - {(one.where, one.was, one.becomes) for one in survivors}
    ratio = 1 - len(survivors) / len(ended)
    for one in holes:
        print(f"{one.where}\n  - {one.was}\n  + {one.becomes}")  # noqa: T201
    for where, was, becomes in sorted(stale):
        print(f"{where}: judged harmless, and noticed or gone\n  - {was}\n  + {becomes}")  # noqa: T201
    endless = sum(status == "timeout" for status in ended.values())
    print(  # noqa: T201
        f"{len(ended)} mutants, {ratio:.1%} noticed ({endless} of them never ended); "
        f"{len(survivors) - len(holes)} judged harmless, {len(holes)} holes"
    )
    if options.json:
        found = {"mutants": len(ended), "noticed_ratio": round(ratio, 4), "holes": [asdict(one) for one in holes]}
        print(json.dumps(found))  # noqa: T201
    return 0 if ratio >= LEAST_NOTICED and not holes and not stale else 1


def _wanted(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatch(name, pattern) for pattern in patterns)


def _results() -> dict[str, str]:
    return dict(_ENDED.findall(_mutmut("results", "--all", "true", stdout=subprocess.PIPE).stdout.decode()))


def _copy() -> None:
    """The tracked files, as they are now; what did not change keeps its time, so that it is not tried again."""
    WORK.mkdir(parents=True, exist_ok=True)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        source, target = ROOT / name, WORK / name
        if source.is_file() and not (target.is_file() and target.read_bytes() == source.read_bytes()):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


def _mutmut(*arguments: str, **streams: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", _RUN, *arguments], cwd=WORK, check=False, **streams)  # type: ignore[call-overload,no-any-return]


def _survivors(names: Sequence[str]) -> list[Survivor]:
    done = subprocess.run([sys.executable, "-c", _DIFFS, *names], cwd=WORK, check=True, stdout=subprocess.PIPE)
    return [_survivor(name, diff) for name, diff in zip(names, json.loads(done.stdout), strict=True)]


def _survivor(name: str, diff: str) -> Survivor:
    lines = list(_changed(diff))
    return Survivor(
        where=re.sub(r"\.x[_ǁ]+|ǁ", ".", name.rpartition("__mutmut_")[0]),
        was=" ".join(line for sign, line in lines if sign == "-"),
        becomes=" ".join(line for sign, line in lines if sign == "+"),
    )


def _changed(diff: str) -> Iterator[tuple[str, str]]:
    for line in diff.splitlines():
        if line[:1] in {"-", "+"} and not line.startswith(("---", "+++")):
            yield line[0], line[1:].strip()


if __name__ == "__main__":
    sys.exit(main())
