"""The files of a chatting version, and whether they fit what it says of itself. No model is loaded here."""

import hashlib
import json
from typing import Any, Final

import msgspec

from store.errors import CorruptVersionError
from store.event import Message
from store.registry.manifest import Manifest
from store.registry.students.records import ChatRecord
from store.student.chat.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, TUNED_NAME
from store.student.chat.confidence import SIGNALS
from store.student.chat.folder import BASE_FILES, GENERATION_NAME, SETTINGS_NAME
from store.student.chat.neighbours import Neighbours
from store.student.classify import ENCODER_FOLDER, Opened
from store.student.encoder import read_tensors
from store.student.folder import ENCODER_FILES, TOKENIZER_NAME, WEIGHTS_NAME

BASE_FOLDER: Final = "base/"
CONFIDENCE_NAME: Final = "confidence.safetensors"
NEIGHBOURS_NAME: Final = "neighbours.json"
NEIGHBOURS_VECTORS: Final = "neighbours.safetensors"
NEIGHBOURS_TENSOR: Final = "vectors"

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


def base_files(manifest: Manifest) -> list[str]:
    """Names of its base's files, in the base's folder."""
    return [*BASE_FILES, *([GENERATION_NAME] if BASE_FOLDER + GENERATION_NAME in manifest.files else [])]


def read_neighbours(opened: Opened, record: ChatRecord, hidden_size: int) -> Neighbours:
    """The training prompts that a version brings with it; `hidden_size` is the small encoder's.

    Raises:
        CorruptVersionError: their vectors and their answers do not fit together, or not the record.
    """
    vectors = read_tensors(NEIGHBOURS_VECTORS, opened.read(NEIGHBOURS_VECTORS)).get(NEIGHBOURS_TENSOR)
    try:
        answers = msgspec.json.decode(opened.read(NEIGHBOURS_NAME), type=list[str])
    except msgspec.MsgspecError as error:
        message = f"{NEIGHBOURS_NAME} is no list of answers: {error}"
        raise CorruptVersionError(message) from error
    if vectors is None or tuple(vectors.shape) != (len(answers), hidden_size) or len(answers) != record.neighbours:
        shape = None if vectors is None else tuple(vectors.shape)
        message = f"vectors {shape} of {record.neighbours} training prompts with {len(answers)} answers"
        raise CorruptVersionError(message)
    return Neighbours(vectors=vectors.float().numpy(), answers=answers)


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
    ]
    lacking = [name for name in needed if name not in manifest.files]
    problems = {
        f"it lacks {', '.join(lacking)}": bool(lacking),
        f"its confidence follows from {record.signals}, and this release knows {list(SIGNALS)}": record.signals
        != list(SIGNALS),
        "it has no golden outputs": not record.golden,
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
