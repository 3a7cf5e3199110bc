"""`understudy proxy-log`, put together: a port, a teacher, and the file between them."""

import fcntl
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Final

import uvicorn
from starlette.applications import Starlette

from ops.exits import RefusedError
from ops.recording.file import RecordedLog
from ops.recording.options import Options
from ops.recording.rows import Rows
from ops.settings import read_key
from ops.state.private_files import write_for_owner_alone
from serve.front.listener import listen
from serve.proxy.app import Exchange, build_proxy
from serve.proxy.tasks import TASKS
from serve.proxy.teacher import ProxiedTeacher
from serve.settings import is_loopback
from serve.teacher.ask.prompts import wrong_prompt
from serve.teacher.parameters import check_base_url, check_model
from store.errors import AlreadyRunningError, SettingsError
from store.event import Lane, new_event_id, wall_clock_s
from store.redact import redact
from store.secrets import DataSecret, subject_token

_DRAIN_S: Final = 30
_MIB: Final = 1 << 20


def run_proxy(options: Options, started: Callable[[int], None]) -> None:
    """Record until stopped; `started` is told the port.

    Raises:
        SettingsError: an option cannot be; it is named.
        AlreadyRunningError: another proxy records there.
        RefusedError: the port is taken.
    """
    write_for_owner_alone()
    with alone(options.out) as secret:
        app = recorder(options, secret)
        try:
            listening = listen(options.host, options.port)
        except OSError as error:
            message = f"--port: cannot listen on {options.host}:{options.port}: {error.strerror}"
            raise RefusedError(message) from error
        with closing(listening):
            config = uvicorn.Config(
                app, ws="none", proxy_headers=False, log_config=None, timeout_graceful_shutdown=_DRAIN_S
            )
            started(listening.getsockname()[1])
            with suppress(KeyboardInterrupt):  # raised again once all has ended in order
                uvicorn.Server(config).run(sockets=[listening])


def recorder(options: Options, secret: DataSecret) -> Starlette:
    """The proxy and its log.

    Raises:
        SettingsError: an option cannot be; it is named.
    """
    log = RecordedLog(options.out, most_bytes=options.max_mb * _MIB, keep=options.keep)
    rows = _rows(options, secret)

    def record(exchange: Exchange) -> None:
        log.append(rows.line(exchange))

    return build_proxy(_teacher(options), path=TASKS[options.task].path, record=record, now=wall_clock_s)


def _teacher(options: Options) -> ProxiedTeacher:
    for flag, check, value in (
        ("--teacher-url", check_base_url, options.teacher_url),
        ("--model", check_model, options.model),
    ):
        if value is not None:
            try:
                check(value)
            except SettingsError as error:
                message = f"{flag}: {error}"
                raise SettingsError(message) from error
    key = read_key(options.api_key_env, "--api-key-env")
    if key is not None and options.host != "localhost" and not is_loopback(options.host):
        message = "--host: with --api-key-env whoever reaches the port spends that key: listen on this machine alone"
        raise SettingsError(message)
    return ProxiedTeacher(base_url=options.teacher_url, api_key=key, model=options.model)


def _rows(options: Options, secret: DataSecret) -> Rows:
    lane, rng = Lane("proxy-log", options.task), Random(secrets.randbits(128))  # noqa: S311 - ids, no secrets
    key, subjects = secret.redaction_key(lane), secret.subject_key(lane)
    return Rows(
        redact=(lambda text: text) if options.raw else (lambda text: redact(text, key)),
        subject=(lambda user: user) if options.raw else (lambda user: subject_token(subjects, user)),
        new_id=lambda at_s: new_event_id(at_s, rng),
        keep_parts=options.raw,
        prompt=_prompt(options),
        beside=TASKS[options.task].beside,
    )


def _prompt(options: Options) -> str | None:
    if options.prompt is None:
        return None
    if TASKS[options.task].beside is None:
        message = f"--prompt: a log of {options.task} holds no prompt that is filled in"
        raise SettingsError(message)
    try:
        prompt = options.prompt.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        message = f"--prompt {options.prompt}: {error}"
        raise SettingsError(message) from error
    if (wrong := wrong_prompt(prompt, options.task)) is not None:
        message = f"--prompt {options.prompt}: {wrong}"
        raise SettingsError(message)
    return prompt


@contextmanager
def alone(out: Path) -> Iterator[DataSecret]:
    """The secret beside a log, by which its tokens stay the same from one start to the next; held while we record.

    Raises:
        SettingsError: nothing can be written there.
        AlreadyRunningError: another process records there.
    """
    path = out.with_name(f"{out.name}.secret")
    try:
        if not path.exists():
            DataSecret.create(path)
        with path.open("rb") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                message = f"another proxy-log records into {out}"
                raise AlreadyRunningError(message) from error
            yield DataSecret.load(path)
    except OSError as error:
        message = f"--out {out}: {error.strerror or error}"
        raise SettingsError(message) from error
