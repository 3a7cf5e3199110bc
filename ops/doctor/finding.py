"""What a check finds, and how checks are run: beside one another, each bounded in time, none hiding another.

A check that raises, or does not come back in time, is a finding itself: `not_checked`, with why.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec

from ops.doctor.secrecy import secrets_of
from ops.site import Site
from store.errors import LogUnavailableError, StoreUnavailableError

Level = Literal["ok", "warning", "fault", "not_checked"]

_HIDDEN: Final = "[secret]"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at."""

    check: str
    level: Level
    why: str  # a sentence
    mend: str | None = None  # a command, or what to put into the settings; with `ok` there is none
    lane: str | None = None


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """All that was found, in the order of the checks."""

    ok: bool  # there is no fault
    faults: int
    warnings: int
    not_checked: int
    findings: list[Finding]


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """An installation that is looked at, and how far."""

    site: Site
    outage_s: float  # the longest for which ingest may be away, as the operator plans it
    ask_teacher: bool  # one paid call for each endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing to look at."""

    name: str
    look: Callable[[Visit], Iterable[Finding]]
    limit_s: float = 20.0
    mend: str = "understudy status"  # where it does not come back


@dataclass(slots=True)
class _Run:
    """One check at work."""

    check: Check
    found: list[Finding] = field(default_factory=list)
    thread: threading.Thread | None = None


def diagnose(visit: Visit, checks: Sequence[Check], *, monotonic: Callable[[], float] = time.monotonic) -> Diagnosis:
    """Look at everything."""
    started_s = monotonic()
    runs = [_started(check, visit) for check in checks]
    found: list[Finding] = []
    for run in runs:
        if run.thread is not None:
            run.thread.join(max(0.0, started_s + run.check.limit_s - monotonic()))
            found += [*run.found, _too_late(run.check)] if run.thread.is_alive() else run.found
    return diagnosis(found, secrets_of(visit.site.settings))


def diagnosis(found: Iterable[Finding], secrets: Collection[str] = ()) -> Diagnosis:
    """Count, and take out what nobody may read."""
    findings = [_without(one, secrets) for one in found]
    levels = [one.level for one in findings]
    return Diagnosis(
        ok="fault" not in levels,
        faults=levels.count("fault"),
        warnings=levels.count("warning"),
        not_checked=levels.count("not_checked"),
        findings=findings,
    )


def _started(check: Check, visit: Visit) -> _Run:
    run = _Run(check)

    def look() -> None:
        try:
            for one in check.look(visit):
                run.found.append(one)
        except (StoreUnavailableError, LogUnavailableError) as error:
            run.found.append(Finding(check=check.name, level="not_checked", why=str(error), mend=check.mend))
        except Exception as error:  # noqa: BLE001 - whatever one check does, the others are told
            why = f"it could not be looked at: {type(error).__name__}: {error}"
            run.found.append(Finding(check=check.name, level="not_checked", why=why, mend=check.mend))

    run.thread = threading.Thread(target=look, name=f"doctor-{check.name}", daemon=True)
    run.thread.start()
    return run


def _too_late(check: Check) -> Finding:
    why = f"it did not come to an end within {check.limit_s:g} s"
    return Finding(check=check.name, level="not_checked", why=why, mend=check.mend)


def _without(finding: Finding, secrets: Collection[str]) -> Finding:
    """The finding with every secret taken out, the longest first."""

    def clean(text: str) -> str:
        for secret in sorted(secrets, key=len, reverse=True):
            text = text.replace(secret, _HIDDEN)
        return text

    return msgspec.structs.replace(
        finding, why=clean(finding.why), mend=None if finding.mend is None else clean(finding.mend)
    )
