"""Kill one process of a running installation with SIGKILL under traffic, and count every event afterwards.

Run as `python -m tests.faults.kill_one --process serve|ingest|train --seed S --json`: the last line is one JSON object.
Exit code 0 when nothing accepted was lost or counted twice and the champion still serves, else 1.
"""

import argparse
import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from types import FrameType
from typing import Any, Final, get_args

from ops.open_log import open_history
from store.event import wall_clock_s
from tests.faults.claims import Evidence, Process, Received, accepted_ids, check, cut_audits, read_buffer, read_log
from tests.faults.client import Client
from tests.faults.installation import LANE, Installation, InstallationError, installation

LIMIT_S: Final = (
    240.0  # of all there is to do, on a slow host; by force a little later, and stopping takes at most 20 s
)
_FORCE_S: Final = 10.0
_MOMENT_S: Final = (0.2, 2.0)  # of the kill, since the traffic began
_CYCLE_MOMENT_S: Final = (0.0, 0.5)  # of the trainer's: since the cycle began, which takes about a second
_TRAIL_S: Final = 2.0  # traffic after the restart
_LAST: Final = 12  # questions at the end


@dataclass(frozen=True, slots=True, kw_only=True)
class Killed:
    """One kill and the restart after it."""

    pid: int
    at: float  # Unix seconds
    at_s: float  # monotonic
    after_s: float  # since the traffic began
    in_cycle: bool  # a cycle had begun and not ended
    restarted_pid: int
    restart_s: float  # until it was ready again


def kill_one(process: Process, seed: int) -> dict[str, Any]:
    """Set up, kill, count; what is printed.

    Raises:
        InstallationError: it did not come to the end in time.
    """
    rng = Random(f"{process}/{seed}")
    started_s = time.monotonic()
    deadline_s = started_s + LIMIT_S
    with installation(seed, deadline_s) as made:
        setup_s = time.monotonic() - started_s
        if process == "train":
            made.import_rows(1)  # the cycle that it asks for, with new texts to embed, is the one that is killed
        imported = frozenset(event_id for event_id, _ in _read_log(made))
        before = made.standing()
        with Client(made.gateway_url, LANE, made.traffic, seed, item_of=made.item_of) as client:
            client.start()
            killed = _kill(made, process, rng, deadline_s)
            if process == "train":
                made.until("the cycle that was asked for", lambda: len(made.cycles()) > 1, deadline_s)
            time.sleep(_TRAIL_S)
            client.finish(max(1.0, deadline_s - time.monotonic()))
            served_after = _ask_the_champion(made, client, rng, deadline_s)
            received = list(client.received)
        _await_calm(made, received, deadline_s)
        code, report = made.run("verify", deadline_s=deadline_s)
        seen = _evidence(made, process, killed, received, imported, before, report, served_after)
        problems = check(seen) + ([f"verify ended with code {code}"] if code else [])
        return _report(seen, killed, problems, seed=seed) | {
            "cycles": [{name: cycle[name] for name in ("verdict", "version", "seconds")} for cycle in made.cycles()],
            "setup_s": round(setup_s, 1),
            "wall_s": round(time.monotonic() - started_s, 1),
        }


def _kill(made: Installation, process: Process, rng: Random, deadline_s: float) -> Killed:
    """Kill the process at a moment that the seed chooses, and wait until its successor is ready."""
    began_s = time.monotonic()
    if process == "train":
        made.until("a cycle begins", lambda: made.cycles_begun() > 1, deadline_s)
    time.sleep(rng.uniform(*(_CYCLE_MOMENT_S if process == "train" else _MOMENT_S)))
    pid = made.pid(process)
    if pid is None:
        message = f"{process} does not run"
        raise made.failed(message)
    in_cycle = made.cycles_begun() > len(made.cycles())
    at, at_s = wall_clock_s(), time.monotonic()
    os.kill(pid, signal.SIGKILL)
    made.until(
        f"another {process} is ready", lambda: made.pid(process) not in {None, pid} and made.ready(process), deadline_s
    )
    restarted_pid = made.pid(process)
    if restarted_pid is None:
        message = f"{process} was ready and is gone again"
        raise made.failed(message)
    return Killed(
        pid=pid,
        at=at,
        at_s=at_s,
        after_s=at_s - began_s,
        in_cycle=in_cycle,
        restarted_pid=restarted_pid,
        restart_s=time.monotonic() - at_s,
    )


def _ask_the_champion(made: Installation, client: Client, rng: Random, deadline_s: float) -> list[Received]:
    """Ask what the champion was made of, once the gateway says that it follows."""
    champion = made.standing().champion
    made.until(f"{champion} serves", lambda: made.served() == {champion}, deadline_s)
    return [client.ask(row.text) for row in rng.sample(made.known, _LAST)]


def _await_calm(made: Installation, received: list[Received], deadline_s: float) -> None:
    """Wait until ingest has read all and the audits that must come have come (what is missing then is reported)."""
    promised = {one.event_id for one in received if one.promised}
    audits_s = min(deadline_s, time.monotonic() + 10.0)
    while promised - {event_id for event_id, _ in _read_log(made)} and time.monotonic() < audits_s:
        time.sleep(0.5)
    made.until("lag 0", lambda: (buffer := made.status().buffer) is not None and buffer.lag_records == 0, deadline_s)


def _read_log(made: Installation) -> list[tuple[str, str]]:
    with made.site.redis_client() as client, open_history(made.site, client) as history:
        return read_log(history, LANE, made.site.secret.lane_key(LANE))


def _evidence(
    made: Installation,
    process: Process,
    killed: Killed,
    received: list[Received],
    imported: frozenset[str],
    before: Any,
    verify: dict[str, Any],
    served_after: list[Received],
) -> Evidence:
    with made.site.redis_client() as client:
        buffer = made.site.buffer(client)
        return Evidence(
            process=process,
            killed_s=killed.at_s,
            received=received,
            imported=imported,
            log=_read_log(made),
            buffer=read_buffer(buffer, LANE),
            counters=buffer.counters(LANE),
            dead=sum(buffer.dead(LANE.use_case).values()),
            verify=verify,
            before=before,
            after=made.standing(),
            served_after=served_after,
        )


def _report(seen: Evidence, killed: Killed, problems: list[str], *, seed: int) -> dict[str, Any]:
    promised = [one for one in seen.received if one.promised]
    return {
        "ok": not problems,
        "problems": problems,
        "process": seen.process,
        "seed": seed,
        "killed_pid": killed.pid,
        "signal": "SIGKILL",
        "at": round(killed.at, 3),
        "after_s": round(killed.after_s, 3),
        "in_cycle": killed.in_cycle,
        "restarted_pid": killed.restarted_pid,
        "restart_s": round(killed.restart_s, 2),
        "requests": len(seen.received),
        "retried_requests": sum(bool(one.failures) for one in seen.received),
        "failed_attempts": sum(len(one.failures) for one in seen.received),
        "failed_requests": sum(one.served_by is None for one in seen.received),
        "accepted": len(accepted_ids(seen)),
        "audits": {"promised": len(promised), "cut": len(cut_audits(seen))},
        "log": {"records": len(seen.log), "events": len({event_id for event_id, _ in seen.log})},
        "buffer": dataclasses.asdict(seen.counters),
        "verify": seen.verify,
        "champion_before": seen.before.champion,
        "champion_after": seen.after.champion,
    }


class _Stopped(BaseException):
    """A signal came: everything must end, in order."""


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGTERM, Ctrl-C and the limit unwind the stack once; while it unwinds, further ones change nothing."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)

    def stop(number: int, _frame: FrameType | None) -> None:
        for one in numbers:
            signal.signal(one, signal.SIG_IGN)
        raise _Stopped(signal.Signals(number).name)

    before = {number: signal.signal(number, stop) for number in numbers}
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S + _FORCE_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        for number, handler in before.items():
            signal.signal(number, handler)


def main() -> int:
    """Run one kill; the exit code."""
    parser = argparse.ArgumentParser(description="Kill one process under traffic and count every event.")
    parser.add_argument("--process", choices=get_args(Process), required=True, help="which one is killed")
    parser.add_argument("--seed", type=int, default=1, help="of the traffic and of the moment")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of one field a line")
    arguments = parser.parse_args()
    report: dict[str, Any] = {"ok": False, "process": arguments.process, "seed": arguments.seed}
    try:
        with _stopped_by_signals():
            report = kill_one(arguments.process, arguments.seed)
    except (InstallationError, TimeoutError, _Stopped) as error:
        report["problems"] = [f"{type(error).__name__.strip('_')}: {error}"]
    lines = [json.dumps(report)] if arguments.json else [f"{name}: {value}" for name, value in report.items()]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
