"""Settings: one TOML file, `UNDERSTUDY_*` variables over it, checked before anything starts.

This is the one file that reads the environment. `UNDERSTUDY_TRAINER__EVERY_S=60` sets `trainer.every_s`; tables in one
variable (`UNDERSTUDY_LANES`) are JSON. A relative path is relative to the settings file, wherever the process runs.
"""

import codecs
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ops.sections import (
    AdminSection,
    BufferSection,
    GateSection,
    GatewaySection,
    KeysSection,
    LaneSection,
    LogSection,
    RedisSection,
    SplitSection,
    SpoolSection,
    TracingSection,
    TrainerSection,
    one_alone,
)
from ops.state.variables import PREFIX, overlaid
from serve.teacher.ask.prompts import wrong_prompt
from serve.teacher.parameters import checked_key
from store.answers.spellings import wrong_labels
from store.errors import SettingsError
from store.event import Lane, Task
from store.student.folder import find_encoder

SETTINGS_NAME: Final = "understudy.toml"
_ENVIRONMENT: Final = os.environ  # noqa: TID251 - this is the one place
_REASONS: Final = {"extra_forbidden": "there is no such key", "missing": "required"}
_FILE_VARIABLE: Final = "UNDERSTUDY_SETTINGS"
_FAIL_POINT_VARIABLE: Final = "UNDERSTUDY_FAIL_POINT"
_BYTE_ORDER_MARKS: Final = (  # the longest first
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

Model = TypeVar("Model", bound=BaseModel)


class Settings(BaseModel):
    """Everything that can be set; the tables are in `ops.sections`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    state_dir: Path = Path("state")
    """Registry, private Redis, spool, caches and run files; back it up. One process of each kind works on it."""
    registry_dir: Annotated[Path | None, Field(examples=["/srv/understudy/registry"])] = None
    """Versions and moves; unset: registry in state_dir. Gateways that share a lane share it: one folder, or one that is
    mounted on each machine."""

    keys: KeysSection = KeysSection()
    log: LogSection = LogSection()
    redis: RedisSection = RedisSection()
    gateway: GatewaySection = GatewaySection()
    admin: AdminSection = AdminSection()
    trainer: TrainerSection = TrainerSection()
    split: SplitSection = SplitSection()
    gate: GateSection = GateSection()
    buffer: BufferSection = BufferSection()
    spool: SpoolSection = SpoolSection()
    tracing: TracingSection = TracingSection()
    lanes: tuple[LaneSection, ...]

    @classmethod
    def load(cls, path: Path | None = None) -> Self:
        """Read and check the settings.

        Args:
            path: the file; None: the one that UNDERSTUDY_SETTINGS names, else ./understudy.toml.

        Raises:
            SettingsError: the file cannot be read, or a key is missing, unknown or wrong; the message names it.
        """
        file = settings_file(path)
        values = _read(file)
        try:
            loaded = cls(**overlaid(values, _ENVIRONMENT, cls))
        except ValidationError as error:  # as a cause it would show the values, secrets included
            raise SettingsError(_explain(file, error)) from None
        except SettingsError as error:
            message = f"{file}: {error}"
            raise SettingsError(message) from None
        problems = _unknown_variables(file, loaded)
        folder = file.absolute().parent
        lanes = []
        for index, lane in enumerate(loaded.lanes):
            try:
                lanes.append(_with_files(file, index, _anchored(lane, folder)))
            except SettingsError as error:
                problems.append(str(error))
        if problems:
            raise SettingsError("\n".join(problems))
        return _anchored(loaded, folder).model_copy(update={"lanes": tuple(lanes)})

    @model_validator(mode="after")
    def _lies_on_a_disk(self) -> Self:
        for key in ("state_dir", "registry_dir"):
            if re.match(r"[a-z][a-z0-9+.-]*:/", str(getattr(self, key))):
                message = f"{key}: a folder is wanted, not an address: object stores are refused, mount a shared disk"
                raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _one_owner_each(self) -> Self:
        if not self.lanes:
            message = "lanes: at least one [[lanes]] is needed"
            raise ValueError(message)
        seen: set[Lane] = set()
        owners: dict[str, str] = {}
        for section in self.lanes:
            if section.lane in seen:
                message = f"lanes: {section.lane} is there twice"
                raise ValueError(message)
            seen.add(section.lane)
            for key in section.api_keys:
                if owners.setdefault(key, section.tenant) != section.tenant:
                    message = f"lanes: tenants {owners[key]} and {section.tenant} share an API key"
                    raise ValueError(message)
        return self

    def encoder_directory(self) -> Path:
        """The folder of the base encoder.

        Raises:
            SettingsError: no encoder can be loaded from it, or the bundled one is not installed.
        """
        return find_encoder(self.trainer.encoder, "trainer.encoder")


def settings_file(path: Path | None = None) -> Path:
    """The settings file: the given one, else the one that UNDERSTUDY_SETTINGS names, else ./understudy.toml."""
    return path or Path(_ENVIRONMENT.get(_FILE_VARIABLE) or SETTINGS_NAME)


def read_text(path: Path) -> str:
    """A text file in UTF-8, or in UTF-16 or UTF-32 with the mark that says so; the mark is no part of the text.

    Raises:
        OSError, ValueError: it cannot be read, or it is in another encoding.
    """
    raw = path.read_bytes()
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if raw.startswith(mark)), "utf-8")
    try:
        return raw.decode(encoding).replace("\r\n", "\n")
    except UnicodeDecodeError as error:  # whose text shows bytes
        line = raw.count(b"\n", 0, error.start) + 1
        message = f"line {line} is not {error.encoding.upper()}: save the file as UTF-8"
        raise ValueError(message) from None


def read_prompt(lane: LaneSection) -> str:
    """The text of a lane's prompt file; empty where its teacher, a reranker, has none.

    Raises:
        SettingsError: it cannot be read.
    """
    if lane.teacher.prompt_file is None:
        return ""
    try:
        return read_text(lane.teacher.prompt_file)
    except (OSError, ValueError) as error:
        message = f"lanes.teacher.prompt_file of {lane.lane}: {error}"
        raise SettingsError(message) from error


def read_api_key(lane: LaneSection) -> str | None:
    """The API key of a lane's teacher from the variable that the settings name; None where they name none.

    Raises:
        SettingsError: the variable is not set, or holds what no key is.
    """
    return read_key(lane.teacher.api_key_env, f"lanes.teacher.api_key_env of {lane.lane}")


def read_engine_key(lane: LaneSection) -> str | None:
    """As `read_api_key`, of the servers that run a lane's model."""
    return read_key(lane.student.engine_key_env, f"lanes.student.engine_key_env of {lane.lane}")


def read_key(variable: str | None, key: str) -> str | None:
    """The API key in a variable; None where none is named. Errors as of `read_api_key`, about the setting `key`."""
    if variable is None:
        return None
    value = read_secret(key, variable)
    try:
        return checked_key(value)
    except SettingsError as error:
        message = f"{key}: the environment variable {variable}: {error}"
        raise SettingsError(message) from None


def read_log_password(log: LogSection) -> str | None:
    """Kafka's password from the variable that the settings name; None where they name none.

    Raises:
        SettingsError: the variable is not set.
    """
    return None if log.sasl_password_env is None else read_secret("log.sasl_password_env", log.sasl_password_env)


def fail_point() -> str | None:
    """Where this process is to die, for the tests that kill it there; None, as ever but in tests: nowhere."""
    return _ENVIRONMENT.get(_FAIL_POINT_VARIABLE)


def read_secret(key: str, variable: str) -> str:
    """What a variable holds that the setting `key` names.

    Raises:
        SettingsError: it is not set.
    """
    value = _ENVIRONMENT.get(variable)
    if not value:
        message = f"{key}: the environment variable {variable} is not set"
        raise SettingsError(message)
    return value


def _read(file: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(read_text(file))
    except FileNotFoundError as error:
        message = f"no settings file {file}: `understudy init` writes one, {_FILE_VARIABLE} names another"
        raise SettingsError(message) from error
    except (OSError, ValueError) as error:  # of the encoding, or of TOML
        message = f"settings file {file}: {error}"
        raise SettingsError(message) from error
    return values


def _explain(file: Path, error: ValidationError) -> str:
    """One line for each wrong key: its dotted path, what is wrong, and the variable it came from, if it did."""
    present = {name.upper() for name in _ENVIRONMENT}
    lines = []
    for problem in error.errors(include_input=False, include_url=False, include_context=False):
        location = [str(part) for part in problem["loc"]]
        reason = _REASONS.get(problem["type"], problem["msg"])
        if problem["type"] == "value_error":  # one of our own checks: it begins with the key inside the table
            inner, reason = reason.removeprefix("Value error, ").split(": ", 1)
            location.append(inner)
        names = {PREFIX + "__".join(location[:depth]).upper() for depth in range(1, len(location) + 1)}
        source = "".join(f" (from {name})" for name in sorted(names & present))
        lines.append(f"{file}: {'.'.join(location)}{source}: {reason}")
    return "\n".join(lines)


def _unknown_variables(file: Path, settings: Settings) -> list[str]:
    """What is wrong with variables: a misspelt table name would otherwise be ignored."""
    found = []
    named = {settings.log.sasl_password_env, settings.tracing.headers_env}
    named |= {name for lane in settings.lanes for name in (lane.teacher.api_key_env, lane.student.engine_key_env)}
    ours = {_FILE_VARIABLE, _FAIL_POINT_VARIABLE, *named}
    fields = [name.upper() for name in Settings.model_fields]
    for name in sorted(_ENVIRONMENT):
        first = name.upper().removeprefix(PREFIX).split("__")[0]
        if name.upper().startswith(PREFIX) and name not in ours and first not in fields:
            message = f"{file}: the environment variable {name} sets no key; known are {PREFIX}{{{', '.join(fields)}}}"
            found.append(message)
    return found


def _anchored(model: Model, folder: Path) -> Model:
    """The same with every relative path made absolute."""
    changes: dict[str, Any] = {}
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, Path):
            changes[name] = folder / value
        elif isinstance(value, BaseModel):
            changes[name] = _anchored(value, folder)
    return model.model_copy(update=changes)


def rebased(model: Model, old: Path, new: Path) -> Model:
    """The same as if the settings file that lies in one folder lay in another."""
    changes: dict[str, Any] = {}
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, Path) and value.is_relative_to(old):
            changes[name] = new / value.relative_to(old)
        elif isinstance(value, BaseModel):
            changes[name] = rebased(value, old, new)
        elif isinstance(value, tuple) and any(isinstance(one, BaseModel) for one in value):
            changes[name] = tuple(rebased(one, old, new) for one in value)
    return model.model_copy(update=changes)


def _with_files(file: Path, index: int, lane: LaneSection) -> LaneSection:
    """A lane with the labels that its file lists, once its prompt is known to be there."""
    problems = []
    prompt = lane.teacher.prompt_file
    if prompt is not None and (wrong := _wrong_prompt_file(prompt, lane.task)) is not None:
        problems.append(f"{file}: lanes.{index}.teacher.prompt_file: {wrong}")
    try:
        lane = lane if lane.labels_file is None else _with_labels(file, index, lane, lane.labels_file)
    except SettingsError as error:
        problems.append(str(error))
    if problems:
        raise SettingsError("\n".join(problems))
    return lane


def _wrong_prompt_file(prompt: Path, task: Task) -> str | None:
    if not prompt.is_file():
        return f"there is no file {prompt}"
    try:
        wrong = wrong_prompt(read_text(prompt), task)
    except (OSError, ValueError) as error:
        return f"{prompt}: {error}"
    return None if wrong is None else f"{prompt} {wrong}"


def _with_labels(file: Path, index: int, lane: LaneSection, labels_file: Path) -> LaneSection:
    """A lane with the labels that its file lists, one a line."""
    try:
        lines = [line.strip() for line in read_text(labels_file).splitlines()]
    except (OSError, ValueError) as error:
        message = f"{file}: lanes.{index}.labels_file: {error}"
        raise SettingsError(message) from error
    labels = tuple(line for line in lines if line)
    wrong = (wrong_labels(labels) or one_alone(labels)) if labels else "it holds none"
    if wrong is not None:
        message = f"{file}: lanes.{index}.labels_file: {labels_file}: {wrong}"
        raise SettingsError(message)
    return lane.model_copy(update={"labels": labels})
