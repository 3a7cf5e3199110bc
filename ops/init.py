"""`understudy init`: a settings file, the keys, the data secret, an example prompt, and what git leaves alone."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from ops.example import example_toml
from ops.settings import SETTINGS_NAME
from ops.tasks import TASKS
from serve.teacher.ask.prompts import TeacherKind
from store.errors import SettingsError
from store.event import Task
from store.registry.files.durable import create, make_folder, replace
from store.registry.signing import PUBLIC_SUFFIX, SigningKey
from store.secrets import DataSecret

KEY_NAMES: Final = ("trainer", "operator")


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """One file that `init` saw to."""

    path: str
    what: str  # for a person
    made: bool  # false: it was there and was kept


def init(directory: Path, *, force: bool = False, task: Task = "classify", teacher: TeacherKind = "chat") -> list[Made]:
    """Prepare a folder for Understudy; the settings file comes last, so that half an init is simply run again.

    Args:
        directory: made where it is missing.
        force: write the settings file anew. Keys, secret and prompt are kept whatever is said here: with other keys
            every version would be refused, and with another secret every item would be unknown.
        task: of the example lane.
        teacher: of that lane: a chat model with a prompt, or a reranker.

    Returns:
        What was made and what was kept, for the CLI to print.

    Raises:
        SettingsError: there is a settings file already, or the folder cannot be written.
    """
    settings = directory / SETTINGS_NAME
    if teacher == "rerank" and not TASKS[task].has_catalogue:
        message = f"--task {task}, --teacher {teacher}: there is no example of such a lane"
        raise SettingsError(message)
    if settings.exists() and not force:
        message = f"{settings} is there already: --force writes it anew (keys, secret and prompt are kept)"
        raise SettingsError(message)
    try:
        return _make(directory, settings, task, teacher)
    except OSError as error:
        message = f"{directory} cannot be prepared: {error}"
        raise SettingsError(message) from error


def _make(directory: Path, settings: Path, task: Task, teacher: TeacherKind) -> list[Made]:
    keys = directory / "keys"
    trusted = keys / "trusted"
    make_folder(trusted)
    for folder in (keys, trusted):
        folder.chmod(0o700)
    prompt = directory / "prompts" / f"{task}.txt"
    example = TASKS[task].prompt if teacher == "chat" else None
    if example is not None:
        make_folder(prompt.parent, mode=0o755)
    made: list[Made] = []
    for name in KEY_NAMES:
        path = keys / name
        made.append(_unless_there(path, f"private key of the {name}", partial(SigningKey.create, name=name)))
        public = trusted / f"{name}{PUBLIC_SUFFIX}"
        made.append(_unless_there(public, "its public half, trusted", SigningKey.load(path).write_public))
    made += [
        _unless_there(directory / "data.secret", "data secret: back it up, it cannot be made again", DataSecret.create),
    ]
    if example is not None:
        data = example.encode()
        made.append(_unless_there(prompt, "example prompt of the teacher", partial(create, data=data, mode=0o644)))
    made.append(_unless_there(directory / ".gitignore", "keeps keys, secret and state out of git", _write_ignored))
    replace(settings, example_of(task, teacher).encode(), mode=0o600)
    named = "teacher and labels" if TASKS[task].has_labels else "teacher"
    if TASKS[task].has_model:
        named = "teacher, and the student's model,"
    return [*made, Made(path=str(settings), what=f"settings: name your {named} there", made=True)]


def example_of(task: Task, teacher: TeacherKind) -> str:
    """The example of the settings, with a lane of a task and a teacher."""
    text = example_toml()
    changes = {} if TASKS[task].has_labels else {"#?task": f'task = "{task}"', "labels": None}
    if teacher == "rerank":
        changes |= {"prompt_file": None, "#kind": 'kind = "rerank"'}
    elif TASKS[task].prompt is None:
        changes["prompt_file"] = None
    elif changes:
        changes["prompt_file"] = f'prompt_file = "prompts/{task}.txt"'
    if TASKS[task].has_model:
        changes["#model"] = 'model = "smollm2"'
    head, lanes = text.split("[[lanes]]", 1)
    for key, line in changes.items():
        lanes = re.sub(rf"(?m)^({key} = .*)$", r"#\1" if line is None else line, lanes, count=1)
    return f"{head}[[lanes]]{lanes}"


def _write_ignored(path: Path) -> None:
    create(path, b"keys/\ndata.secret\nstate/\n", mode=0o644)


def _unless_there(path: Path, what: str, make: Callable[[Path], object]) -> Made:
    there = path.exists()
    if not there:
        make(path)
    return Made(path=str(path), what=what, made=not there)
