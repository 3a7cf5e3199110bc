"""Settings and keys: may everything that they name be read, and does what signs count here?"""

from collections.abc import Callable, Iterator
from typing import Final

from ops.doctor.finding import Finding, Visit
from ops.open_log import log_login
from ops.sections import LaneSection
from ops.settings import read_api_key, read_prompt
from store.errors import BadSignatureError, SettingsError
from store.registry.signing import SigningKey, TrustedKeys

_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


def settings(visit: Visit) -> Iterator[Finding]:
    """What is allowed by the settings, and surprises all the same."""
    site = visit.site
    found = [one for section in site.settings.lanes for one in _lane(section)]
    gateway = site.settings.gateway
    open_lanes = [str(section.lane) for section in site.settings.lanes if not section.api_keys]
    if gateway.host not in _LOOPBACK and open_lanes:
        why = f"gateway.host is {gateway.host}, and {', '.join(open_lanes)} has no lanes.api_keys: others get no answer"
        found.append(Finding(check="settings", level="warning", why=why, mend='lanes.api_keys = ["…"]'))
    yield from found
    if not found:
        lanes = ", ".join(f"{section.lane} ({section.task})" for section in site.settings.lanes)
        yield Finding(check="settings", level="ok", why=f"they can be read, prompts too: {lanes}")


def _lane(section: LaneSection) -> Iterator[Finding]:
    lane = str(section.lane)
    try:
        read_prompt(section)
    except SettingsError as error:
        yield Finding(
            check="settings",
            level="fault",
            why=str(error),
            mend="write the file that lanes.teacher.prompt_file names",
            lane=lane,
        )
    if not section.training_permitted:
        why = "training_permitted is false: every question goes to the teacher, and nothing is learned from it"
        yield Finding(check="settings", level="warning", why=why, mend="lanes.training_permitted = true", lane=lane)
    teacher = section.teacher
    priced = teacher.input_usd_per_mtok or teacher.output_usd_per_mtok or teacher.search_usd
    if section.budget.usd_per_day is not None and not priced:
        why = "budget.usd_per_day is set, and the teacher has no prices: no dollar is ever counted against it"
        yield Finding(
            check="settings", level="warning", why=why, mend="lanes.teacher.input_usd_per_mtok = …", lane=lane
        )


def keys(visit: Visit) -> Iterator[Finding]:
    """The data secret, the trusted keys, both signing keys, and the variables that hold others' keys."""
    site = visit.site
    yield _readable("the data secret", lambda: site.secret, "understudy init .")
    yield _readable(
        "the log's password", lambda: log_login(site), "export the variable that log.sasl_password_env names"
    )
    for section in site.settings.lanes:
        mend = f"export {section.teacher.api_key_env}=…"
        yield _readable(f"the teacher's key of {section.lane}", lambda one=section: read_api_key(one), mend)  # type: ignore[misc]
    try:
        trusted = TrustedKeys.load(site.settings.keys.trusted)
    except SettingsError as error:
        yield Finding(check="keys", level="fault", why=f"keys.trusted: {error}", mend="understudy init .")
        return
    yield _signs("keys.operator", site.operator_key, trusted, "without it nobody can promote, roll back or rule here")
    yield _signs("keys.trainer", site.trainer_key, trusted, "without it no version is published here")


def _readable(what: str, read: Callable[[], object], mend: str) -> Finding:
    try:
        read()
    except SettingsError as error:
        return Finding(check="keys", level="fault", why=str(error), mend=mend)
    return Finding(check="keys", level="ok", why=f"{what} is there")


def _signs(named: str, load: Callable[[], SigningKey], trusted: TrustedKeys, without: str) -> Finding:
    """Whether what a key signs counts. A gateway's machine has neither: that is a warning, not a fault."""
    try:
        key = load()
    except SettingsError as error:
        return Finding(check="keys", level="warning", why=f"{error}: {without}", mend="understudy keys list")
    try:
        trusted.check(key)
    except BadSignatureError as error:
        mend = f"understudy keys add {key.name}"
        return Finding(check="keys", level="fault", why=f"{named}: what it signs counts nowhere: {error}", mend=mend)
    return Finding(check="keys", level="ok", why=f"{named} signs as {key.name}, and is trusted")
