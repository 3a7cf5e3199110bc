"""The files of a chatting version, and whether they fit what it says of itself. No model is loaded here."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Final

from store.errors import CorruptVersionError
from store.event import ChatInput, Message
from store.registry.manifest import Manifest
from store.registry.students.records import ChatRecord
from store.student.chat.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, TUNED_NAME
from store.student.chat.decoder import config_of, template_of
from store.student.chat.folder import BASE_FILES, GENERATION_NAME, SETTINGS_NAME
from store.student.chat.template import Template
from store.student.chat.trust import CONFIDENCE_NAME, NEIGHBOURS_NAME, NEIGHBOURS_VECTORS, OPENINGS_NAME, SIGNALS
from store.student.classify import ENCODER_FOLDER, Opened
from store.student.folder import CONFIG_NAME, ENCODER_FILES, TOKENIZER_NAME, WEIGHTS_NAME
from store.tasks.chat import form_of

BASE_FOLDER: Final = "base/"

GOLDEN_CONVERSATIONS: Final[tuple[tuple[Message, ...], ...]] = (
    (Message(role="user", content="Which months have thirty days?"),),
    (
        Message(role="system", content="You answer in one short sentence."),
        Message(role="user", content="Why is the sea salty?"),
    ),
    (
        Message(role="user", content="I have 12 apples and buy 30 more."),
        Message(role="assistant", content="Then you have 42 apples."),
        Message(role="user", content="And after I give half of them away?"),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """How a version's decoder reads, of its small files alone: for who has a decoder run elsewhere."""

    template: Template
    longest: int  # tokens, prompt and answer together, that it was made for

    @staticmethod
    def read(opened: Opened) -> "Words":
        """Out of a verified version.

        Raises:
            CorruptVersionError: a file is unreadable, or there is no chat template.
            SwapRefusedError: this release knows no such decoder.
        """
        files = {name: opened.read(BASE_FOLDER + name) for name in base_files(opened.manifest) if name != WEIGHTS_NAME}
        template = template_of(files)
        return Words(template=template, longest=int(config_of(files[CONFIG_NAME]).max_position_embeddings))


def trained_for(record: ChatRecord | None, value: ChatInput) -> bool:
    """Whether a version has learned to answer in the form that a conversation asks for."""
    if record is None or record.forms is None:
        return True
    form = form_of(value.shape)
    return form is None or form in record.forms


def base_files(manifest: Manifest) -> list[str]:
    """Names of its base's files, in the base's folder."""
    return [*BASE_FILES, *([GENERATION_NAME] if BASE_FOLDER + GENERATION_NAME in manifest.files else [])]


def check_template(record: ChatRecord, opened: Opened) -> None:
    """Refuse a version whose chat template is another than it says.

    Raises:
        CorruptVersionError: it is, or there is none.
    """
    try:
        template: Any = json.loads(opened.read(BASE_FOLDER + SETTINGS_NAME))["chat_template"]
        found = hashlib.sha256(template.encode()).hexdigest()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"{BASE_FOLDER}{SETTINGS_NAME} has no chat template"
        raise CorruptVersionError(message) from error
    if found != record.template:
        message = f"a version's chat template is {found[:12]}, and it says {record.template[:12]}"
        raise CorruptVersionError(message)


def check_manifest(manifest: Manifest) -> ChatRecord:
    """The record, of a manifest that does not contradict itself; no file is read.

    Raises:
        CorruptVersionError: it does.
    """
    record = manifest.student
    if not isinstance(record, ChatRecord):
        message = f"a version of {record.task} was taken for one of chat"
        raise CorruptVersionError(message)
    trained = (TUNED_NAME,) if record.rank is None else (ADAPTER_CONFIG, ADAPTER_WEIGHTS)
    needed = [
        *(BASE_FOLDER + name for name in BASE_FILES),
        *(ENCODER_FOLDER + name for name in ENCODER_FILES),
        *trained,
        CONFIDENCE_NAME,
        NEIGHBOURS_NAME,
        NEIGHBOURS_VECTORS,
        *([OPENINGS_NAME] if record.deciding_tokens else []),
    ]
    lacking = [name for name in needed if name not in manifest.files]
    problems = {
        f"it lacks {', '.join(lacking)}": bool(lacking),
        f"its confidence follows from {record.signals}, and this release knows {list(SIGNALS)}": record.signals
        != list(SIGNALS),
        "its golden outputs are none, or do not fit their tokens": not record.golden
        or any(not 0 < len(one.tokens) == len(one.logprobs) for one in record.golden),
        "it decides by fewer than no tokens": record.deciding_tokens < 0,
        "it has no room for a prompt or an answer": record.max_prompt_tokens < 1 or record.max_answer_tokens < 1,
    }
    for problem, found in problems.items():
        if found:
            message = f"a version cannot be loaded: {problem}"
            raise CorruptVersionError(message)
    hashes = {
        WEIGHTS_NAME: (manifest.base.sha256, "base"),
        TOKENIZER_NAME: (record.tokenizer, "tokenizer"),
    }
    for name, (said, what) in hashes.items():
        found_hash = manifest.files[BASE_FOLDER + name].sha256
        if found_hash != said:
            message = f"a version's {BASE_FOLDER}{name} is {found_hash[:12]}, not its {what} {said[:12]}"
            raise CorruptVersionError(message)
    return record
